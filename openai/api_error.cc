// Turns statuses into errors of OpenAI's API, and such errors into statuses.
#include "openai/api_error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "api/refusal.h"
#include "base/cut_text.h"

namespace h2o {
namespace {

constexpr char kParam[] = "h2oserve/param";
constexpr char kCode[] = "h2oserve/code";
constexpr double kRetrySeconds = 1;  // where no estimate is known

std::string PayloadOf(const absl::Status& status, const char* key) {
  const auto payload = status.GetPayload(key);
  return payload ? std::string(*payload) : std::string();
}

// The field that the message of a check is about; empty: none.
std::string FieldIn(std::string_view message) {
  constexpr std::array<std::string_view, 17> kFields = {"temperature",
                                                        "top_k",
                                                        "top_p",
                                                        "min_p",
                                                        "frequency_penalty",
                                                        "presence_penalty",
                                                        "logit_bias",
                                                        "repetition_penalty",
                                                        "max_tokens",
                                                        "min_tokens",
                                                        "stop",
                                                        "stop_token_ids",
                                                        "top_logprobs",
                                                        "kv_policy",
                                                        "kv_budget",
                                                        "generated",
                                                        "n"};
  // Of checks that begin otherwise.
  constexpr std::array<std::pair<std::string_view, const char*>, 9> kWords = {
      {{"kv policy full keeps everything and takes no budget", "kv_budget"},
       {"kv policy ", "kv_policy"},
       {"kv budget ", "kv_budget"},
       {"kv heavy", "kv_heavy"},
       {"kv recent ", "kv_recent"},
       {"prompt token ", "prompt"},
       {"generated token ", "generated"},
       {"stop token id ", "stop_token_ids"},
       {"token of logit_bias ", "logit_bias"}}};
  for (const auto& [words, field] : kWords) {
    if (message.starts_with(words)) return field;
  }
  const std::string_view word = message.substr(0, message.find_first_of(" ["));
  const auto* const found = std::find(kFields.begin(), kFields.end(), word);
  return found == kFields.end() ? "" : std::string(*found);
}

ApiError BadRequest(const absl::Status& status) {
  ApiError error = {.status = 400,
                    .message = std::string(status.message()),
                    .param = PayloadOf(status, kParam),
                    .code = PayloadOf(status, kCode)};
  if (error.param.empty()) error.param = FieldIn(error.message);
  if (NeverFits(status)) error.code = "context_length_exceeded";
  if (error.code.empty()) error.code = "invalid_value";
  if (error.code == "model_not_found") error.status = 404;
  return error;
}

ApiError Overloaded(const absl::Status& status, int overload_status) {
  ApiError error = {
      .status = overload_status,
      .message = std::string(status.message()),
      .type = "server_error",
      .code = "server_is_overloaded",
      .retry_after_seconds = RetryAfterSeconds(status).value_or(kRetrySeconds)};
  const std::optional<Refusal> reason = RefusalOf(status);
  if (reason == Refusal::kTenantWaiting || reason == Refusal::kTenantTokens) {
    error.status = 429;
    error.type = "rate_limit_error";
    error.code = "slow_down";
  }
  return error;
}

ApiError Unavailable(const absl::Status& status) {
  return {
      .status = 503,
      .message = std::string(status.message()),
      .type = "server_error",
      .code = "server_is_unavailable",
      .retry_after_seconds = RetryAfterSeconds(status).value_or(kRetrySeconds),
      .closes = RefusalOf(status) == Refusal::kDraining};
}

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

std::string ErrorJson(const ApiError& error) {
  using Json = nlohmann::ordered_json;
  Json fields;
  fields["message"] = error.message;
  fields["type"] = error.type;
  fields["param"] = error.param.empty() ? Json() : Json(error.param);
  fields["code"] = error.code.empty() ? Json() : Json(error.code);
  Json body;
  body["error"] = std::move(fields);
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<std::pair<std::string, std::string>> HeadersOf(
    const ApiError& error) {
  std::vector<std::pair<std::string, std::string>> headers;
  if (error.retry_after_seconds) {
    const double seconds = *error.retry_after_seconds;
    headers.emplace_back(
        "Retry-After",
        absl::StrCat(std::max<int64_t>(1, std::llround(std::ceil(seconds)))));
    headers.emplace_back(
        "retry-after-ms",
        absl::StrCat(std::max<int64_t>(1, std::llround(seconds * 1000))));
  }
  if (error.final) headers.emplace_back("x-should-retry", "false");
  if (error.status == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
  return headers;
}

absl::Status BadField(const std::string& param, const std::string& message,
                      const std::string& code) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kParam, absl::Cord(absl::string_view(param)));
  status.SetPayload(kCode, absl::Cord(absl::string_view(code)));
  return status;
}

ApiError ErrorOf(const absl::Status& status, int overload_status) {
  const std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
      return BadRequest(status);
    case absl::StatusCode::kUnauthenticated:
      return {.status = 401, .message = message, .code = "invalid_api_key"};
    case absl::StatusCode::kPermissionDenied:
      return {.status = 403, .message = message, .code = "permission_denied"};
    case absl::StatusCode::kResourceExhausted:
      return Overloaded(status, overload_status);
    case absl::StatusCode::kUnavailable:
      return Unavailable(status);
    case absl::StatusCode::kDeadlineExceeded:
      return {.status = 504,
              .message = message,
              .type = "server_error",
              .code = "deadline_exceeded"};
    case absl::StatusCode::kCancelled:
      return {.status = 499, .message = message, .code = "cancelled"};
    default:
      return {.status = 500,
              .message = message,
              .type = "server_error",
              .code = "internal_error",
              .final = true};
  }
}

std::string ErrorMessageOf(const std::string& body) {
  const std::string message = FieldOf(body, "message");
  return message.empty() ? CutText(body) : message;
}

std::string ErrorCodeOf(const std::string& body) {
  return FieldOf(body, "code");
}

absl::Status StatusOfError(int http_status, const std::string& body) {
  std::string message = ErrorMessageOf(body);
  if (message.empty()) message = absl::StrCat("HTTP status ", http_status);
  return absl::Status(CodeOf(http_status, ErrorCodeOf(body)), message);
}

}  // namespace h2o
