#include "flags/request_check.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The offset of the first byte that is not UTF-8 (RFC 3629: no surrogates, no
// overlong forms, at most U+10FFFF); text.size() if there is none.
size_t FirstBadByte(const std::string& text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  size_t i = 0;
  while (i < text.size()) {
    const unsigned first = byte(i);
    const int length = first < 0x80             ? 1
                       : (first & 0xe0) == 0xc0 ? 2
                       : (first & 0xf0) == 0xe0 ? 3
                       : (first & 0xf8) == 0xf0 ? 4
                                                : 0;
    if (length == 0) return i;
    unsigned code = length == 1 ? first : first & (0x7fu >> length);
    for (int k = 1; k < length; ++k) {
      if ((byte(i + k) & 0xc0) != 0x80) return i;
      code = code << 6 | (byte(i + k) & 0x3f);
    }
    constexpr unsigned kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kSmallest[length] || code > 0x10ffff ||
        (code >= 0xd800 && code <= 0xdfff)) {
      return i;
    }
    i += length;
  }
  return i;
}

absl::Status CheckUtf8(const std::string& field, const std::string& text) {
  const size_t bad = FirstBadByte(text);
  if (bad == text.size()) return absl::OkStatus();
  return Bad(field, " is not UTF-8: byte 0x",
             absl::Hex(static_cast<unsigned char>(text[bad])), " at offset ",
             bad);
}

absl::Status CheckSampling(const SamplingParams& sampling) {
  if (!std::isfinite(sampling.temperature) || sampling.temperature < 0) {
    return Bad("temperature is ", sampling.temperature,
               "; it must be 0 (greedy) or more, and finite");
  }
  if (sampling.top_k < 0) {
    return Bad("top_k is ", sampling.top_k, "; it must be 0 (off) or more");
  }
  if (!(sampling.top_p >= 0 && sampling.top_p <= 1)) {
    return Bad("top_p is ", sampling.top_p,
               "; it must be over 0 and at most 1 (0 or 1: off)");
  }
  return absl::OkStatus();
}

absl::Status CheckStop(const std::vector<std::string>& stop) {
  if (stop.size() > kMaxStopStrings) {
    return Bad("stop has ", stop.size(), " strings; at most ", kMaxStopStrings,
               " are allowed");
  }
  for (size_t i = 0; i < stop.size(); ++i) {
    if (stop[i].empty()) {
      return Bad("stop[", i, "] is empty; a stop string needs a character");
    }
    if (stop[i].size() > kMaxStopBytes) {
      return Bad("stop[", i, "] has ", stop[i].size(), " bytes; at most ",
                 kMaxStopBytes, " are allowed");
    }
    H2O_RETURN_IF_ERROR(CheckUtf8(absl::StrCat("stop[", i, "]"), stop[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const Request& request) {
  if (!request.has_text && request.tokens.empty()) {
    return Bad("the prompt has no tokens; give at least one, or a text");
  }
  H2O_RETURN_IF_ERROR(CheckUtf8("the prompt", request.text));
  for (size_t i = 0; i < request.tokens.size(); ++i) {
    if (request.tokens[i] < 0) {
      return Bad("tokens[", i, "] is ", request.tokens[i],
                 "; token ids are 0 or more");
    }
  }
  if (request.max_tokens && *request.max_tokens < 1) {
    return Bad("max_tokens is ", *request.max_tokens,
               "; it must be at least 1");
  }
  H2O_RETURN_IF_ERROR(CheckSampling(request.sampling));
  H2O_RETURN_IF_ERROR(CheckStop(request.stop));
  if (request.kv_policy) return ValidateKvPolicyRequest(*request.kv_policy);
  return absl::OkStatus();
}

}  // namespace h2o
