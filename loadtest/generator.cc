// Joins a leader, and does what it says.
#include "loadtest/generator.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "loadtest/link_messages.h"
#include "openai/api_error.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kAskSeconds = 0.1;  // between questions for what is next
constexpr int kExchanges = 16;       // of clocks
// A leader that says nothing for so long is lost.
constexpr double kSilenceSeconds = 20;

struct ClockReading {
  double offset = 0;  // the leader's clock less this one
  double round_trip = 0;
};

class Link {
 public:
  Link(const GeneratorOptions& options, Targets* targets, Pace* pace,
       const std::function<bool()>& stopped)
      : options_(options), targets_(targets), pace_(pace), stopped_(stopped) {}

  absl::Status Work() {
    H2O_ASSIGN_OR_RETURN(
        client_, HttpClient::Create(options_.leader,
                                    {.silence_seconds = kSilenceSeconds}));
    H2O_RETURN_IF_ERROR(Join());
    while (!stopped_()) {
      H2O_ASSIGN_OR_RETURN(const std::string said,
                           Ask("/next", Json{{"generator", number_}}.dump()));
      H2O_ASSIGN_OR_RETURN(const NextMessage next, NextFromJson(said));
      if (next.state == NextMessage::State::kDone) {
        Leave();
        return absl::OkStatus();
      }
      if (next.state == NextMessage::State::kRun) {
        H2O_RETURN_IF_ERROR(RunOne(next));
      } else {
        pace_->SleepUntil(pace_->Now() + kAskSeconds);
      }
    }
    Leave();
    return absl::CancelledError("stopped by a signal");
  }

 private:
  absl::StatusOr<std::string> Ask(const std::string& path,
                                  const std::string& body) {
    const auto answer =
        client_->Ask({.method = "POST", .path = path, .body = body});
    if (!answer.ok()) {
      return absl::Status(answer.status().code(),
                          absl::StrCat("the leader is lost: ",
                                       std::string(answer.status().message())));
    }
    if (answer->status == 200) return answer->body;
    return absl::InvalidArgumentError(
        absl::StrCat("the leader says: ", ErrorMessageOf(answer->body)));
  }

  // Also a leader that starts later.
  absl::Status Join() {
    const std::string body = Json{{"name", options_.name}}.dump();
    const double until = pace_->Now() + options_.join_seconds;
    absl::StatusOr<std::string> said = Ask("/join", body);
    while (absl::IsUnavailable(said.status()) && pace_->Now() < until) {
      if (stopped_()) return absl::CancelledError("stopped by a signal");
      pace_->SleepUntil(pace_->Now() + kAskSeconds);
      said = Ask("/join", body);
    }
    H2O_RETURN_IF_ERROR(said.status());
    const Json json = Json::parse(*said, nullptr, false);
    if (!json.is_object() || !json.contains("generator") ||
        !json["generator"].is_number_integer()) {
      return absl::DataLossError("what answers is no leader");
    }
    number_ = json["generator"].get<int>();
    return absl::OkStatus();
  }

  // The leader waits for it, and may be gone before it has answered.
  void Leave() {
    (void)client_->Ask({.method = "POST",
                        .path = "/leave",
                        .body = Json{{"generator", number_}}.dump()});
  }

  absl::StatusOr<ClockReading> ReadClock() {
    ClockReading best{.round_trip = std::numeric_limits<double>::infinity()};
    for (int i = 0; i < kExchanges; ++i) {
      const double asked = pace_->Now();
      H2O_ASSIGN_OR_RETURN(const std::string said, Ask("/clock", "{}"));
      const double answered = pace_->Now();
      const Json json = Json::parse(said, nullptr, false);
      if (!json.is_object() || !json.contains("now") ||
          !json["now"].is_number()) {
        return absl::DataLossError("what answers is no leader");
      }
      if (answered - asked >= best.round_trip) continue;
      best.round_trip = answered - asked;
      best.offset = json["now"].get<double>() - (asked + answered) / 2;
    }
    return best;
  }

  // Tells the leader how a run goes, with the records since the last time.
  // Threads  Take by any; the rest by one.
  class Reporter {
   public:
    Reporter(Link* link, int run)
        : link_(*link), report_{.generator = link->number_, .run = run} {}

    void Take(RequestRecord record) {
      std::lock_guard lock(mutex_);
      records_.push_back(std::move(record));
    }

    // False: the leader wants no more, or is lost.
    bool Tell(const LoadProgress& progress) {
      if (!lost_.ok()) return false;
      report_.progress = progress;
      {
        std::lock_guard lock(mutex_);
        report_.records = std::exchange(records_, {});
      }
      const auto said = link_.Ask("/report", ToJson(report_));
      lost_ = said.status();
      const Json json = Json::parse(said.value_or("{}"), nullptr, false);
      return json.is_object() && json.contains("go_on") &&
             json["go_on"] == true;
    }

    // The last words of a run.
    absl::Status End(const LoadProgress& progress, const std::string& fault) {
      report_.ended = true;
      report_.fault = fault;
      Tell(progress);
      return lost_;
    }
    absl::Status End(const LoadProgress& progress, const ClockReading& before,
                     const ClockReading& behind) {
      report_.round_trip_seconds =
          std::max(before.round_trip, behind.round_trip);
      report_.drift_seconds = behind.offset - before.offset;
      return End(progress, "");
    }

    const absl::Status& lost() const { return lost_; }

   private:
    Link& link_;
    ReportMessage report_;
    absl::Status lost_;
    std::mutex mutex_;
    std::vector<RequestRecord> records_;  // guarded by mutex_
  };

  absl::Status RunOne(const NextMessage& next) {
    Reporter reporter(this, next.run);
    H2O_ASSIGN_OR_RETURN(const LoadSpec spec, LoadSpecFromJson(next.spec));
    const auto targets = targets_->Of(spec.targets);
    if (!targets.ok()) {
      return reporter.End({}, std::string(targets.status().message()));
    }
    H2O_ASSIGN_OR_RETURN(const ClockReading before, ReadClock());
    const LoadProgress last = RunPart(
        spec, next.part, *targets, pace_, next.start - before.offset,
        [&](RequestRecord record) { reporter.Take(std::move(record)); },
        [&](const LoadProgress& progress, double /*seconds*/) {
          return reporter.Tell(progress) && !stopped_();
        });
    H2O_RETURN_IF_ERROR(reporter.lost());
    // The requests that it did not send are missing from the run.
    if (stopped_()) return reporter.End(last, "it was stopped by a signal");
    H2O_ASSIGN_OR_RETURN(const ClockReading behind, ReadClock());
    return reporter.End(last, before, behind);
  }

  const GeneratorOptions options_;
  Targets* const targets_;
  Pace* const pace_;
  const std::function<bool()>& stopped_;
  std::unique_ptr<HttpClient> client_;
  int number_ = 0;
};

}  // namespace

absl::Status Generate(const GeneratorOptions& options, Targets* targets,
                      Pace* pace, const std::function<bool()>& stopped) {
  return Link(options, targets, pace, stopped).Work();
}

}  // namespace h2o
