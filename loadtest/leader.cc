// Leads generators: a small HTTP service with the state of one run.
#include "loadtest/leader.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/monitor.h"
#include "base/status_macros.h"
#include "http/http_server.h"
#include "loadtest/link_messages.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

// From when a run is handed out until it begins: generators ask every tenth of
// a second, and compare their clocks before it.
constexpr double kLeadSeconds = 2;
// A generator that is silent for so long is lost.
constexpr double kSilenceSeconds = 30;
// When the leader is done, generators get so long to hear of it.
constexpr double kFarewellSeconds = 5;
constexpr double kGlanceSeconds = 0.2;

class HttpLeader final : public Leader {
 public:
  HttpLeader(int generators, const Pace* pace)
      : wanted_(generators), pace_(pace) {}

  ~HttpLeader() override {
    {
      Monitor::Lock lock(monitor_);
      done_ = true;
      lock.AwaitFor(kFarewellSeconds, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        for (const Generator& g : generators_) {
          if (!g.has_left) return false;
        }
        return true;
      });
    }
    server_.reset();
  }
  HttpLeader(const HttpLeader&) = delete;

  absl::Status Listen(const HostPort& where) {
    H2O_ASSIGN_OR_RETURN(
        server_, HttpServer::Start(
                     where, {.max_body_bytes = 256 << 20, .body_seconds = 120},
                     [this](const HttpRequest& request,
                            const std::shared_ptr<HttpReply>& reply) {
                       reply->Send(Answer(request));
                     }));
    return absl::OkStatus();
  }

  const HostPort& address() const override { return server_->address(); }
  int joined() const override {
    Monitor::Lock lock(monitor_);
    return static_cast<int>(generators_.size());
  }

  absl::StatusOr<RunResult> Run(const LoadSpec& spec,
                                const LookAtRun& look) override {
    H2O_RETURN_IF_ERROR(AwaitGenerators(look));
    Monitor::Lock lock(monitor_);
    spec_ = ToJson(spec);
    start_ = pace_->Now() + kLeadSeconds;
    stopping_ = false;
    records_.clear();
    fault_.clear();
    for (Generator& g : generators_) g.ended = false;
    ++run_;
    while (!AllEnded()) {
      lock.AwaitFor(kGlanceSeconds, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        return AllEnded();
      });
      const LoadProgress progress = Progress();
      const double now = pace_->Now() - start_;
      lock.Release();
      const bool go_on = look(progress, now);
      lock.Acquire();
      if (!go_on) stopping_ = true;
      H2O_RETURN_IF_ERROR(CheckHeard());
    }
    if (!fault_.empty()) return absl::FailedPreconditionError(fault_);
    RunResult result{.records = std::move(records_)};
    for (const Generator& g : generators_) result.clocks.push_back(g.clock);
    return result;
  }

 private:
  struct Generator {
    GeneratorClock clock;
    double heard = 0;  // of the pace
    LoadProgress progress;
    int run = 0;  // that was handed to it
    bool ended = true;
    bool has_left = false;  // it was stopped, or has heard "done"
  };

  absl::Status AwaitGenerators(const LookAtRun& look) const {
    while (true) {
      {
        Monitor::Lock lock(monitor_);
        const auto enough = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
          return static_cast<int>(generators_.size()) >= wanted_;
        };
        if (lock.AwaitFor(kGlanceSeconds, enough)) return absl::OkStatus();
      }
      if (!look({}, -1)) {
        return absl::CancelledError(
            "stopped while it waited for generators to join");
      }
    }
  }

  bool AllEnded() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    for (const Generator& g : generators_) {
      if (!g.ended) return false;
    }
    return true;
  }

  LoadProgress Progress() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    LoadProgress all;
    for (const Generator& g : generators_) all.Add(g.progress);
    return all;
  }

  absl::Status CheckHeard() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    for (size_t i = 0; i < generators_.size(); ++i) {
      const Generator& g = generators_[i];
      if (g.ended) continue;
      if (g.has_left) {
        return absl::UnavailableError(
            absl::StrCat("generator ", i, " (", g.clock.name,
                         ") has left; the run cannot be completed"));
      }
      if (pace_->Now() - g.heard < kSilenceSeconds) continue;
      return absl::UnavailableError(absl::StrCat(
          "generator ", i, " (", g.clock.name, ") has been silent for ",
          kSilenceSeconds, " s; the run cannot be completed"));
    }
    return absl::OkStatus();
  }

  HttpResponse Answer(const HttpRequest& request) {
    if (request.method != "POST") return {.status = 405, .body = "{}"};
    if (request.path == "/clock") {
      return {.body = Json{{"now", pace_->Now()}}.dump()};
    }
    if (request.path == "/report") return TakeReport(request.body);
    const Json json = Json::parse(request.body, nullptr, false);
    if (request.path == "/join") return Join(json, request.peer);
    if (request.path == "/next") return Next(json);
    if (request.path == "/leave") return Leave(json);
    return {.status = 404, .body = "{}"};
  }

  static HttpResponse Refuse(const std::string& why) {
    return {.status = 400, .body = Json{{"error", {{"message", why}}}}.dump()};
  }

  HttpResponse Join(const Json& json, const std::string& peer) {
    if (!json.is_object() || !json.contains("name") ||
        !json["name"].is_string()) {
      return Refuse("a generator joins with its name");
    }
    Monitor::Lock lock(monitor_);
    if (static_cast<int>(generators_.size()) >= wanted_) {
      return Refuse(absl::StrCat("the leader has all its ", wanted_,
                                 " generators; raise --generators"));
    }
    Generator& g = generators_.emplace_back();
    g.clock.name = absl::StrCat(json["name"].get<std::string>(), " ", peer);
    g.heard = pace_->Now();
    return {.body = Json{{"generator", generators_.size() - 1}}.dump()};
  }

  Generator* GeneratorOf(int64_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    if (i < 0 || i >= static_cast<int64_t>(generators_.size())) return nullptr;
    generators_[i].heard = pace_->Now();
    return &generators_[i];
  }

  // The number of the generator that asks; -1: it has none.
  static int64_t NumberOf(const Json& json) {
    const bool named = json.is_object() && json.contains("generator") &&
                       json["generator"].is_number_integer();
    return named ? json["generator"].get<int64_t>() : -1;
  }

  HttpResponse Leave(const Json& json) {
    Monitor::Lock lock(monitor_);
    Generator* const g = GeneratorOf(NumberOf(json));
    if (g == nullptr) return Refuse("no such generator has joined");
    g->has_left = true;
    return {.body = "{}"};
  }

  HttpResponse Next(const Json& json) {
    Monitor::Lock lock(monitor_);
    const int64_t number = NumberOf(json);
    Generator* const g = GeneratorOf(number);
    if (g == nullptr) return Refuse("no such generator has joined");
    NextMessage next;
    if (done_) {
      next.state = NextMessage::State::kDone;
    } else if (!g->ended && g->run < run_) {
      g->run = run_;
      next = {.state = NextMessage::State::kRun,
              .run = run_,
              .spec = spec_,
              .part = {static_cast<int>(number), wanted_},
              .start = start_};
    }
    return {.body = ToJson(next)};
  }

  HttpResponse TakeReport(const std::string& body) {
    absl::StatusOr<ReportMessage> report = ReportFromJson(body);
    if (!report.ok()) return Refuse(std::string(report.status().message()));
    Monitor::Lock lock(monitor_);
    Generator* const g = GeneratorOf(report->generator);
    if (g == nullptr) return Refuse("no such generator has joined");
    if (report->run == run_ && !g->ended) {
      g->progress = report->progress;
      for (RequestRecord& record : report->records) {
        records_.push_back(std::move(record));
      }
      if (!report->fault.empty()) {
        fault_ = absl::StrCat("generator ", report->generator, " (",
                              g->clock.name, "): ", report->fault);
        stopping_ = true;
      }
      if (report->ended) {
        g->clock.round_trip_seconds = report->round_trip_seconds;
        g->clock.drift_seconds = report->drift_seconds;
        g->clock.waited = report->progress.waited;
        g->ended = true;
      }
    }
    return {.body = Json{{"go_on", !stopping_ && !done_}}.dump()};
  }

  const int wanted_;
  const Pace* const pace_;

  mutable Monitor monitor_;
  std::vector<Generator> generators_ ABSL_GUARDED_BY(monitor_);
  // Of the run that is on.
  int run_ ABSL_GUARDED_BY(monitor_) = 0;
  std::string spec_ ABSL_GUARDED_BY(monitor_);
  double start_ ABSL_GUARDED_BY(monitor_) = 0;
  bool stopping_ ABSL_GUARDED_BY(monitor_) = false;
  std::vector<RequestRecord> records_ ABSL_GUARDED_BY(monitor_);
  std::string fault_ ABSL_GUARDED_BY(monitor_);
  bool done_ ABSL_GUARDED_BY(monitor_) = false;

  std::unique_ptr<HttpServer> server_;  // last made, first gone
};

}  // namespace

absl::StatusOr<std::unique_ptr<Leader>> Leader::Listen(const HostPort& where,
                                                       int generators,
                                                       const Pace* pace) {
  auto leader = std::make_unique<HttpLeader>(generators, pace);
  H2O_RETURN_IF_ERROR(leader->Listen(where));
  return leader;
}

}  // namespace h2o
