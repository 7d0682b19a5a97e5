// Errors as clients of OpenAI's API expect them: a status of HTTP, and a body
// {"error": {"message", "type", "param", "code"}}.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace h2o {

struct ApiError {
  int status = 400;  // of HTTP
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;  // the field that is at fault; empty: none
  std::string code;
  std::optional<double> retry_after_seconds;
  bool final = false;   // the same request would fail again
  bool closes = false;  // the server takes no more requests: leave it
};

// {"error": ..}, in one line.
std::string ErrorJson(const ApiError& error);

// Retry-After, retry-after-ms, x-should-retry, WWW-Authenticate: what the error
// has of them.
std::vector<std::pair<std::string, std::string>> HeadersOf(
    const ApiError& error);

// INVALID_ARGUMENT about one field of a body.
absl::Status BadField(const std::string& param, const std::string& message,
                      const std::string& code = "invalid_value");

// What a status of the Engine, of BadField or of a reader of requests is over
// HTTP.  `overload_status`: of a full queue, 503 or 429.
ApiError ErrorOf(const absl::Status& status, int overload_status = 503);

// ---- What a client reads of an error's body

// Its message; of a body that has none, the body, cut.
std::string ErrorMessageOf(const std::string& body);

// Its code; empty: it has none.
std::string ErrorCodeOf(const std::string& body);

// The reverse of ErrorOf, also of other servers' errors.  `http_status`: of the
// response, 200 for an error in a stream.
absl::Status StatusOfError(int http_status, const std::string& body);

}  // namespace h2o
