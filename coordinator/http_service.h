// What the coordinator answers over HTTP: a table of routes, with health,
// metrics and status; those of OpenAI's API are OpenAiService's.
//
// Threads  Handle by any thread; it never waits.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/doorkeeper.h"
#include "coordinator/engine.h"
#include "coordinator/fault_log.h"
#include "coordinator/http_call.h"
#include "coordinator/openai_service.h"
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
  OpenAiService* openai = nullptr;   // null: none of its routes
  // Pages of these may call; "*": of all.
  std::vector<std::string> allowed_origins;
};

class HttpService {
 public:
  // `engine` and `clock` must outlive this.
  HttpService(HttpServiceOptions options, Engine* engine, const Clock* clock);

  void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply);

 private:
  struct Route {
    const char* path;
    const char* method;  // "GET": HEAD too
    Right right;
    // May take what is in the call.
    void (HttpService::*answer)(HttpCall* call);
    bool is_prefix = false;  // of paths
  };
  static const Route kRoutes[];

  // Sends what returns a response.
  template <HttpResponse (HttpService::*kAnswer)()>
  void Plain(HttpCall* call) {
    call->Send((this->*kAnswer)());
  }
  template <auto kAnswer>
  void OpenAi(HttpCall* call) {
    (options_.openai->*kAnswer)(std::move(*call));
  }

  // Whether a request would be taken now (POST).
  void Admission(HttpCall* call);
  void Playground(HttpCall* call);
  HttpResponse Alive();
  HttpResponse Ready();
  HttpResponse Health();
  HttpResponse Progress();
  HttpResponse Metrics();
  HttpResponse VersionOf();
  HttpResponse Status();

  void Answer(const Route& route, HttpCall call);
  // What every answer says.
  HttpHeaders HeadersFor(const HttpCall& call) const;
  // A browser asks whether a page may call.
  void Preflight(const HttpCall& call) const;
  // Finds out whose call it is.  Errors: as Doorkeeper's.
  absl::Status Admit(Right right, HttpCall* call);

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
