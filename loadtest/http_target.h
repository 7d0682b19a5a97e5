// A server of OpenAI's API over HTTP: POST /v1/completions, streamed.
//
// Threads  one for each request that runs, made when none is free; a thread
//          keeps its connection.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/tls_material.h"
#include "http/http_client.h"
#include "loadtest/pace.h"
#include "loadtest/target.h"

namespace h2o {

struct HttpTargetOptions {
  HttpUrl url;
  TlsMaterial tls;
  std::vector<std::string> keys = {""};  // by tenant; an empty one: none
  std::string model;                     // empty: the body names none
  std::string more_fields = "{}";        // a JSON object: added to each body
  double silence_seconds = 600;          // that the server may say nothing
};

// `pace` must outlive it.
// Errors: INVALID_ARGUMENT if OpenSSL cannot use the certificates.
absl::StatusOr<std::unique_ptr<Target>> NewHttpTarget(
    const HttpTargetOptions& options, const Pace* pace);

}  // namespace h2o
