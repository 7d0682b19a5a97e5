// A request over HTTP that may be answered: who asks, and how the answer goes
// back.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "api/tenant.h"
#include "http/http_server.h"
#include "openai/api_error.h"

namespace h2o {

struct HttpCall {
  HttpRequest request;
  TenantRow tenant;
  std::string id;       // of the request: the client's, or one made up
  HttpHeaders headers;  // of any answer
  std::shared_ptr<HttpReply> reply;

  void Send(HttpResponse response) const {
    response.headers.insert(response.headers.end(), headers.begin(),
                            headers.end());
    reply->Send(std::move(response));
  }
  void Fail(const ApiError& error) const {
    HttpResponse response = {.status = error.status,
                             .body = ErrorJson(error),
                             .headers = HeadersOf(error),
                             .closes = error.closes};
    Send(std::move(response));
  }
};

}  // namespace h2o
