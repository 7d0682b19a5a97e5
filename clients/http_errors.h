// What a server says over HTTP beside an answer: errors, and when to ask again.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "http/http_server.h"

namespace h2o {

// Empty: it has no such header.  `name` in lower case.
std::string HeaderOf(const HttpResponse& response, std::string_view name);

// Seconds after which the server wants to be asked again, if it says so.
std::optional<double> RetryAfterOf(const HttpResponse& response);

// The message of an error's body {"error": {"message": ..}}, or the body.
std::string ErrorMessageOf(const std::string& body);

// The status that gRPC has for the error that is in `body`; `http_status`: of
// the response, 200 for an error in a stream.
absl::Status StatusOfError(int http_status, const std::string& body);

}  // namespace h2o
