// The routes of the coordinator's HTTP interface.
#include "coordinator/http_service.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "api/request_json.h"
#include "base/kv_page.h"
#include "coordinator/metrics_page.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kPageSeconds = 0.1;
constexpr char kMetricsPath[] = "/metrics";
constexpr char kAdmissionPath[] = "/v1/admission";

HttpResponse JsonAnswer(int status, const Json& body) {
  HttpResponse response;
  response.status = status;
  response.body = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  return response;
}

HttpResponse ErrorAnswer(int status, const char* code, std::string message) {
  const Json error = {{"message", std::move(message)},
                      {"type", "invalid_request_error"},
                      {"param", nullptr},
                      {"code", code}};
  return JsonAnswer(status, {{"error", error}});
}

// 401 or 403.
HttpResponse Unwelcome(const absl::Status& why) {
  if (absl::IsPermissionDenied(why)) {
    return ErrorAnswer(403, "permission_denied", std::string(why.message()));
  }
  HttpResponse response =
      ErrorAnswer(401, "invalid_api_key", std::string(why.message()));
  response.headers = {{"WWW-Authenticate", "Bearer"}};
  return response;
}

HttpResponse WrongMethod(const char* path, const char* allowed) {
  HttpResponse refusal =
      ErrorAnswer(405, "method_not_allowed",
                  absl::StrCat(path, " answers ", allowed, " alone"));
  refusal.headers = {{"Allow", allowed}};
  return refusal;
}

HttpResponse BadRequest(const absl::Status& why) {
  return ErrorAnswer(400, "invalid_value", std::string(why.message()));
}

// Over HTTP a lower priority goes first, as in vLLM.
int32_t Negated(int32_t priority) {
  return priority == std::numeric_limits<int32_t>::min()
             ? std::numeric_limits<int32_t>::max()
             : -priority;
}

// 200, or 503 with the reason.
HttpResponse HealthAnswer(const char* what, const absl::Status& status) {
  Json body = {{what, status.ok()}};
  if (!status.ok()) body["reason"] = std::string(status.message());
  return JsonAnswer(status.ok() ? 200 : 503, body);
}

}  // namespace

const HttpService::Route HttpService::kRoutes[] = {
    {"/livez", Right::kNone, &HttpService::Alive},
    {"/readyz", Right::kNone, &HttpService::Ready},
    {"/progressz", Right::kNone, &HttpService::Progress},
    {"/health", Right::kNone, &HttpService::Health},
    {kMetricsPath, Right::kNone, &HttpService::Metrics},
    {"/version", Right::kKey, &HttpService::VersionOf},
    {"/v1/status", Right::kAdmin, &HttpService::Status},
};

HttpService::HttpService(HttpServiceOptions options, Engine* engine,
                         const Clock* clock)
    : options_(std::move(options)), engine_(engine), clock_(clock) {}

void HttpService::Handle(const HttpRequest& request, HttpReply* reply) {
  if (request.path == kAdmissionPath) return reply->Send(Admission(request));
  for (const Route& route : kRoutes) {
    if (request.path != route.path) continue;
    const Right right =
        route.path == kMetricsPath ? options_.metrics_right : route.right;
    if (const auto tenant = Admit(right, request); !tenant.ok()) {
      return reply->Send(Unwelcome(tenant.status()));
    }
    if (request.method == "GET") return reply->Send((this->*route.answer)());
    return reply->Send(WrongMethod(route.path, "GET, HEAD"));
  }
  // What is not named above takes a key, whatever it may become; but a page
  // for people may come to stand at the root.
  const Right right = request.path == "/" ? Right::kNone : Right::kKey;
  if (const auto tenant = Admit(right, request); !tenant.ok()) {
    return reply->Send(Unwelcome(tenant.status()));
  }
  reply->Send(ErrorAnswer(404, "not_found",
                          "there is nothing at this path; /v1/status, /metrics "
                          "and /health are"));
}

absl::StatusOr<TenantRow> HttpService::Admit(Right right,
                                             const HttpRequest& request) {
  if (options_.keeper == nullptr) return TenantRow();
  return options_.keeper->Admit(
      right, {.peer = request.peer,
              .authorization = request.Header("authorization"),
              .asks_for = request.path});
}

HttpResponse HttpService::Admission(const HttpRequest& request) {
  const absl::StatusOr<TenantRow> tenant = Admit(Right::kModel, request);
  if (!tenant.ok()) return Unwelcome(tenant.status());
  if (request.method != "POST") return WrongMethod(kAdmissionPath, "POST");
  std::string others;  // fields that change nothing here, as `model`
  absl::StatusOr<Request> asked =
      RequestFromJson(request.body, Request{}, &others);
  if (!asked.ok()) return BadRequest(asked.status());
  asked->priority = Negated(asked->priority);
  asked->tenant = *tenant;
  const absl::StatusOr<AdmissionAnswer> answer =
      engine_->CheckAdmission(*asked);
  if (absl::IsUnavailable(answer.status())) {
    return ErrorAnswer(503, "server_is_unavailable",
                       std::string(answer.status().message()));
  }
  if (!answer.ok()) return BadRequest(answer.status());
  return JsonAnswer(200, {{"fits_now", answer->fits_now},
                          {"retry_after_seconds", answer->retry_after_seconds},
                          {"pages", answer->pages},
                          {"kv_bytes", answer->kv_bytes},
                          {"reason", answer->reason}});
}

HttpResponse HttpService::Alive() {
  return HealthAnswer("alive", absl::OkStatus());
}

HttpResponse HttpService::Ready() { return HealthAnswer("ready", Readiness()); }

HttpResponse HttpService::Health() {
  // As vLLM's: an empty body says that all is well.
  const absl::Status status = Readiness();
  return status.ok() ? HttpResponse() : HealthAnswer("ready", status);
}

HttpResponse HttpService::Progress() {
  return HealthAnswer("progress",
                      engine_->Progress(options_.step_deadline_seconds));
}

absl::Status HttpService::Readiness() const {
  const absl::Status open = engine_->Ready();
  if (open.ok() || engine_->num_groups() > 0) return open;
  return absl::UnavailableError(
      absl::StrCat(open.message(), ": ", options_.loading()));
}

HttpResponse HttpService::Metrics() {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  std::lock_guard lock(mutex_);
  if (const double now = clock_->Now(); now - page_made_ >= kPageSeconds) {
    page_ = MakePage();
    page_made_ = now;
  }
  response.body = page_;
  return response;
}

std::string HttpService::MakePage() const {
  MetricsSource source;
  source.model = options_.model_id;
  source.version = options_.version;
  source.commit = options_.commit;
  source.vllm_names = options_.vllm_metrics;
  source.counters = engine_->counters();
  source.page_slots = kPageSlots;
  source.groups = engine_->groups();
  source.tenants = engine_->tenants();
  if (options_.faults != nullptr) source.faults = options_.faults->counts();
  source.queue_age_seconds = engine_->queue_age_seconds();
  if (options_.certificate_expires) {
    source.certificate_not_after = options_.certificate_expires();
  }
  return MetricsPage(source);
}

HttpResponse HttpService::VersionOf() {
  return JsonAnswer(200, {{"version", options_.version}});
}

HttpResponse HttpService::Status() {
  HttpResponse response;
  response.body = options_.status();
  return response;
}

}  // namespace h2o
