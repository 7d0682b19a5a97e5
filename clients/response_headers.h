// What an answer over HTTP says in its headers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "http/http_server.h"

namespace h2o {

// Empty: it has no such header.  `name` in lower case.
std::string HeaderOf(const HttpResponse& response, std::string_view name);

// Seconds after which the server wants to be asked again, if it says so.
std::optional<double> RetryAfterOf(const HttpResponse& response);

}  // namespace h2o
