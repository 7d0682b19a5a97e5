// The header by which callers tell which trace a request belongs to: W3C Trace
// Context, https://www.w3.org/TR/trace-context/.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace h2o {

inline constexpr char kTraceparentKey[] = "traceparent";

// "00-<32 hex digits: the trace>-<16: the caller's span>-<2: flags>", in lower
// case, neither id all zeros.  Others are to be ignored.
inline bool IsTraceparent(std::string_view value) {
  constexpr std::string_view kShape =
      "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
  const auto fits = [](char shape, char c) {
    if (shape != 'x') return shape == c;
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  };
  const auto is_zero = [](std::string_view id) {
    return id.find_first_not_of('0') == std::string_view::npos;
  };
  return value.size() == kShape.size() &&
         std::equal(kShape.begin(), kShape.end(), value.begin(), fits) &&
         !is_zero(value.substr(3, 32)) && !is_zero(value.substr(36, 16));
}

// REQUIRES: IsTraceparent.
inline std::string TraceIdOf(std::string_view traceparent) {
  return std::string(traceparent.substr(3, 32));
}

}  // namespace h2o
