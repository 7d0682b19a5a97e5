// What the coordinator answers over HTTP: health, metrics and status.
//
// Threads  Handle by any thread; it never waits.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/doorkeeper.h"
#include "coordinator/engine.h"
#include "coordinator/fault_log.h"
#include "http/http_server.h"

namespace h2o {

struct HttpServiceOptions {
  std::string model_id;  // the name that clients call the model by
  std::string version, commit;
  bool vllm_metrics = true;
  Doorkeeper* keeper = nullptr;        // null: everybody may see all
  Right metrics_right = Right::kNone;  // what /metrics takes
  // Steps that take longer than this are no progress.
  double step_deadline_seconds = 30;
  // Why no group is ready, for people.
  std::function<std::string()> loading = [] { return std::string(); };
  // When the server's certificate expires (Unix, seconds); null: it has none.
  std::function<double()> certificate_expires;
  // The text of /v1/status.
  std::function<std::string()> status = [] { return std::string("{}"); };
  const FaultLog* faults = nullptr;  // null: none; outlives the service
};

class HttpService {
 public:
  // `engine` and `clock` must outlive this.
  HttpService(HttpServiceOptions options, Engine* engine, const Clock* clock);

  void Handle(const HttpRequest& request, HttpReply* reply);

 private:
  using Answer = HttpResponse (HttpService::*)();
  struct Route {
    const char* path;
    Right right;
    Answer answer;  // to GET
  };
  static const Route kRoutes[];

  // Whether a request would be taken now (POST).
  HttpResponse Admission(const HttpRequest& request);
  HttpResponse Alive();
  HttpResponse Ready();
  HttpResponse Health();
  HttpResponse Progress();
  HttpResponse Metrics();
  HttpResponse VersionOf();
  HttpResponse Status();

  // Errors: as Doorkeeper's.
  absl::StatusOr<TenantRow> Admit(Right right, const HttpRequest& request);

  // OK, or why requests are not taken.
  absl::Status Readiness() const;
  std::string MakePage() const;

  const HttpServiceOptions options_;
  Engine* const engine_;
  const Clock* const clock_;

  // Scrapers ask up to 20 times a second; a page is made ten times at most.
  std::mutex mutex_;
  std::string page_;
  double page_made_ = -1e9;
};

}  // namespace h2o
