// Reads headers of answers over HTTP.
#include "clients/response_headers.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace h2o {

std::string HeaderOf(const HttpResponse& response, std::string_view name) {
  for (const auto& [key, value] : response.headers) {
    if (absl::AsciiStrToLower(key) == name) return value;
  }
  return "";
}

std::optional<double> RetryAfterOf(const HttpResponse& response) {
  const auto seconds = [&](const char* name,
                           double unit) -> std::optional<double> {
    double number = 0;
    const bool told =
        absl::SimpleAtod(HeaderOf(response, name), &number) && number >= 0;
    return told ? std::optional(number * unit) : std::nullopt;
  };
  const std::optional<double> exact = seconds("retry-after-ms", 1e-3);
  return exact ? exact : seconds("retry-after", 1);
}

}  // namespace h2o
