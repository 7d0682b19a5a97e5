// The two paths of a worker's health.
#include "worker/worker_health.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/host_port.h"

namespace h2o {
namespace {

// Why the worker is not ready; null: it is.
const char* WhyNotReady(const WorkerControl& control) {
  if (control.leave) return "it was told to stop";
  const WorkerStage stage = control.stage;
  switch (stage) {
    case WorkerStage::kDialing:
      return "no coordinator has answered";
    case WorkerStage::kWaiting:
      return "it waits for a rank";
    case WorkerStage::kLoading:
      return "it loads";
    case WorkerStage::kServing:
      return nullptr;
  }
  return nullptr;
}

HttpResponse Answer(const HttpRequest& request, const WorkerControl& control) {
  HttpResponse response;
  if (request.path != "/livez" && request.path != "/readyz") {
    response.status = 404;
    response.body =
        R"({"error": {"message": "a worker has /livez and /readyz"}})";
  } else if (request.method != "GET") {
    response.status = 405;
    response.headers = {{"Allow", "GET, HEAD"}};
  } else if (request.path == "/livez") {
    response.body = R"({"alive":true})";
  } else if (const char* why = WhyNotReady(control)) {
    response.status = 503;
    response.body = absl::StrCat(R"({"ready":false,"reason":")", why, R"("})");
  } else {
    response.body = R"({"ready":true})";
  }
  return response;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> ServeWorkerHealth(
    const std::string& address, const WorkerControl* control) {
  const auto refused = [](const absl::Status& why) {
    return absl::InvalidArgumentError(
        absl::StrCat("--health: ", why.message()));
  };
  const absl::StatusOr<HostPort> where = ParseHostPort(address);
  if (!where.ok()) return refused(where.status());
  absl::StatusOr<std::unique_ptr<HttpServer>> server =
      HttpServer::Start(*where, {.threads = 1, .max_connections = 64},
                        [control](const HttpRequest& request,
                                  const std::shared_ptr<HttpReply>& reply) {
                          reply->Send(Answer(request, *control));
                        });
  if (!server.ok()) return refused(server.status());
  return server;
}

}  // namespace h2o
