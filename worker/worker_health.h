// A worker's own health over HTTP, for supervisors of its process: /livez, and
// /readyz while its shard is loaded.  No answer waits for the coordinator or
// for other ranks.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "http/http_server.h"
#include "worker/worker_service.h"

namespace h2o {

// `address`: HOST:PORT.  `control` must outlive the server.
// Errors: INVALID_ARGUMENT naming an address that cannot be served at.
absl::StatusOr<std::unique_ptr<HttpServer>> ServeWorkerHealth(
    const std::string& address, const WorkerControl* control);

}  // namespace h2o
