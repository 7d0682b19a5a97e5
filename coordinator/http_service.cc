// The routes of the coordinator's HTTP interface.
#include "coordinator/http_service.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "api/request_json.h"
#include "base/cut_text.h"
#include "base/entropy.h"
#include "base/kv_page.h"
#include "base/status_macros.h"
#include "base/traceparent.h"
#include "coordinator/metrics_page.h"
#include "openai/api_error.h"
#include "openai/ask.h"
#include "web/playground.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kPageSeconds = 0.1;
constexpr char kMetricsPath[] = "/metrics";
constexpr char kRequestId[] = "x-request-id";

HttpResponse JsonAnswer(int status, const Json& body) {
  HttpResponse response;
  response.status = status;
  response.body = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  return response;
}

constexpr size_t kMaxRequestId = 128;

// What the client calls its request, or a name made up.
std::string RequestIdOf(const HttpRequest& request) {
  const std::string_view id = request.Header(kRequestId);
  const bool is_fit = !id.empty() && id.size() <= kMaxRequestId &&
                      std::all_of(id.begin(), id.end(),
                                  [](char c) { return c > ' ' && c < 0x7f; });
  return is_fit ? std::string(id)
                : absl::StrCat("req-",
                               absl::Hex(RandomBits64(), absl::kZeroPad16));
}

bool IsJson(std::string_view content_type) {
  content_type = content_type.substr(0, content_type.find(';'));
  while (content_type.ends_with(' ')) content_type.remove_suffix(1);
  return content_type.empty() ||
         absl::EqualsIgnoreCase(
             absl::string_view(content_type.data(), content_type.size()),
             "application/json");
}

// 200, or 503 with the reason.
HttpResponse HealthAnswer(const char* what, const absl::Status& status) {
  Json body = {{what, status.ok()}};
  if (!status.ok()) body["reason"] = std::string(status.message());
  return JsonAnswer(status.ok() ? 200 : 503, body);
}

}  // namespace

const HttpService::Route HttpService::kRoutes[] = {
    {"/v1/completions", "POST", Right::kModel,
     &HttpService::OpenAi<&OpenAiService::Complete>},
    {"/v1/chat/completions", "POST", Right::kModel,
     &HttpService::OpenAi<&OpenAiService::Chat>},
    {"/v1/models", "GET", Right::kKey,
     &HttpService::OpenAi<&OpenAiService::Models>},
    {"/v1/models/", "GET", Right::kKey,
     &HttpService::OpenAi<&OpenAiService::Model>, /*is_prefix=*/true},
    {"/tokenize", "POST", Right::kKey,
     &HttpService::OpenAi<&OpenAiService::Tokenize>},
    {"/detokenize", "POST", Right::kKey,
     &HttpService::OpenAi<&OpenAiService::Detokenize>},
    {"/v1/admission", "POST", Right::kModel, &HttpService::Admission},
    {"/v1/status", "GET", Right::kAdmin,
     &HttpService::Plain<&HttpService::Status>},
    {"/version", "GET", Right::kKey,
     &HttpService::Plain<&HttpService::VersionOf>},
    {kMetricsPath, "GET", Right::kNone,
     &HttpService::Plain<&HttpService::Metrics>},
    {"/", "GET", Right::kNone, &HttpService::Playground},
    {"/livez", "GET", Right::kNone, &HttpService::Plain<&HttpService::Alive>},
    {"/readyz", "GET", Right::kNone, &HttpService::Plain<&HttpService::Ready>},
    {"/progressz", "GET", Right::kNone,
     &HttpService::Plain<&HttpService::Progress>},
    {"/health", "GET", Right::kNone, &HttpService::Plain<&HttpService::Health>},
};

HttpService::HttpService(HttpServiceOptions options, Engine* engine,
                         const Clock* clock)
    : options_(std::move(options)), engine_(engine), clock_(clock) {}

void HttpService::Handle(HttpRequest request,
                         std::shared_ptr<HttpReply> reply) {
  HttpCall call = {.request = std::move(request), .reply = std::move(reply)};
  call.id = RequestIdOf(call.request);
  call.headers = HeadersFor(call);
  if (call.request.method == "OPTIONS" && !options_.allowed_origins.empty()) {
    return Preflight(call);
  }
  for (const Route& route : kRoutes) {
    const std::string& path = call.request.path;
    const std::string_view known = route.path;
    const bool is_it =
        route.is_prefix ? path.starts_with(known) && path.size() > known.size()
                        : path == known;
    if (is_it) return Answer(route, std::move(call));
  }
  // What is not named above takes a key, whatever it may become.
  if (const absl::Status may = Admit(Right::kKey, &call); !may.ok()) {
    return call.Fail(ErrorOf(may));
  }
  call.Fail({.status = 404,
             .message = absl::StrCat("there is nothing at ",
                                     CutText(call.request.path),
                                     "; /v1/completions, /v1/models, /metrics "
                                     "and /health are"),
             .code = "not_found"});
}

void HttpService::Answer(const Route& route, HttpCall call) {
  const bool is_metrics = route.path == kMetricsPath;
  const Right right = is_metrics ? options_.metrics_right : route.right;
  if (const absl::Status may = Admit(right, &call); !may.ok()) {
    return call.Fail(ErrorOf(may));
  }
  const bool is_get = std::string_view(route.method) == "GET";
  if (call.request.method != route.method) {
    const char* const allowed = is_get ? "GET, HEAD" : route.method;
    call.headers.emplace_back("Allow", allowed);
    return call.Fail({.status = 405,
                      .message = absl::StrCat(call.request.path, " answers ",
                                              allowed, " alone"),
                      .code = "method_not_allowed"});
  }
  const std::string_view type = call.request.Header("content-type");
  if (!is_get && !IsJson(type)) {
    return call.Fail({.status = 415,
                      .message = absl::StrCat("Content-Type is ", CutText(type),
                                              "; it must be application/json"),
                      .code = "unsupported_media_type"});
  }
  (this->*route.answer)(&call);
}

HttpHeaders HttpService::HeadersFor(const HttpCall& call) const {
  HttpHeaders headers = {{"X-Request-Id", call.id}};
  if (const std::string_view trace = call.request.Header(kTraceparentKey);
      IsTraceparent(trace)) {
    headers.emplace_back(kTraceparentKey, trace);
  }
  const std::string_view origin = call.request.Header("origin");
  if (origin.empty()) return headers;
  for (const std::string& allowed : options_.allowed_origins) {
    if (allowed != "*" && allowed != origin) continue;
    headers.emplace_back("Access-Control-Allow-Origin", allowed);
    headers.emplace_back("Access-Control-Expose-Headers",
                         "X-Request-Id, Retry-After, retry-after-ms");
    headers.emplace_back("Vary", "Origin");
    break;
  }
  return headers;
}

void HttpService::Preflight(const HttpCall& call) const {
  HttpResponse response = {.status = 204};
  response.headers = {
      {"Access-Control-Allow-Methods", "GET, HEAD, POST"},
      {"Access-Control-Allow-Headers",
       "Authorization, Content-Type, X-Request-Id, traceparent"},
      {"Access-Control-Max-Age", "600"}};
  call.Send(std::move(response));
}

absl::Status HttpService::Admit(Right right, HttpCall* call) {
  if (options_.keeper == nullptr) return absl::OkStatus();
  H2O_ASSIGN_OR_RETURN(
      call->tenant,
      options_.keeper->Admit(
          right, {.peer = call->request.peer,
                  .authorization = call->request.Header("authorization"),
                  .asks_for = call->request.path}));
  return absl::OkStatus();
}

void HttpService::Admission(HttpCall* call) {
  std::string others;  // fields that change nothing here, as `model`
  absl::StatusOr<Request> asked =
      RequestFromJson(call->request.body, Request{}, &others);
  if (!asked.ok()) return call->Fail(ErrorOf(asked.status()));
  asked->priority = PriorityOf(asked->priority);
  asked->tenant = call->tenant;
  const absl::StatusOr<AdmissionAnswer> answer =
      engine_->CheckAdmission(*asked);
  if (!answer.ok()) return call->Fail(ErrorOf(answer.status()));
  call->Send(
      JsonAnswer(200, {{"fits_now", answer->fits_now},
                       {"retry_after_seconds", answer->retry_after_seconds},
                       {"pages", answer->pages},
                       {"kv_bytes", answer->kv_bytes},
                       {"reason", answer->reason}}));
}

void HttpService::Playground(HttpCall* call) {
  const WebPage page = h2o::Playground();
  HttpResponse response = {.content_type = "text/html; charset=utf-8"};
  response.headers = {{"Content-Security-Policy", page.security_policy},
                      {"ETag", page.etag},
                      {"Cache-Control", "no-cache"},  // asks each time
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"}};
  const std::string_view known = call->request.Header("if-none-match");
  if (known.find(page.etag) != std::string_view::npos) {
    response.status = 304;
  } else {
    response.body = page.html;
  }
  call->Send(std::move(response));
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
  absl::Status open = engine_->Ready();
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
