// Reads errors of servers of OpenAI's API.
#include "clients/http_errors.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

// A text of {"error": ..}; empty: there is none.
std::string FieldOf(const std::string& body, const char* name) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  const auto at = nlohmann::json::json_pointer(absl::StrCat("/error/", name));
  const bool has =
      json.is_object() && json.contains(at) && json[at].is_string();
  return has ? json[at].get<std::string>() : "";
}

absl::StatusCode CodeOf(int http_status, const std::string& code) {
  if (code == "server_is_overloaded" || code == "slow_down") {
    return absl::StatusCode::kResourceExhausted;
  }
  if (code == "cancelled") return absl::StatusCode::kCancelled;
  if (code == "server_is_unavailable") return absl::StatusCode::kUnavailable;
  if (code == "deadline_exceeded") return absl::StatusCode::kDeadlineExceeded;
  switch (http_status) {
    case 401:
      return absl::StatusCode::kUnauthenticated;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 408:
    case 504:
      return absl::StatusCode::kDeadlineExceeded;
    case 429:
      return absl::StatusCode::kResourceExhausted;
    case 502:
    case 503:
      return absl::StatusCode::kUnavailable;
    default:
      return http_status >= 400 && http_status < 500
                 ? absl::StatusCode::kInvalidArgument
                 : absl::StatusCode::kInternal;
  }
}

}  // namespace

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

std::string ErrorMessageOf(const std::string& body) {
  constexpr size_t kMostShown = 200;
  const std::string message = FieldOf(body, "message");
  return message.empty() ? body.substr(0, kMostShown) : message;
}

absl::Status StatusOfError(int http_status, const std::string& body) {
  std::string message = ErrorMessageOf(body);
  if (message.empty()) message = absl::StrCat("HTTP status ", http_status);
  return absl::Status(CodeOf(http_status, FieldOf(body, "code")), message);
}

}  // namespace h2o
