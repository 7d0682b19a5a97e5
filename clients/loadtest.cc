// `h2oserve loadtest`: loads servers as users would, and reports what users
// would feel.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/new_file.h"
#include "base/status_macros.h"
#include "base/stop_signals.h"
#include "clients/blocked_signals.h"
#include "clients/commands.h"
#include "clients/loadtest_flags.h"
#include "clients/loadtest_target.h"
#include "flags/exit_code.h"
#include "loadtest/fleet.h"
#include "loadtest/generator.h"
#include "loadtest/http_target.h"
#include "loadtest/leader.h"
#include "loadtest/load_report.h"
#include "loadtest/report_html.h"
#include "loadtest/report_text.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

// ---- Targets

// By tenant.
absl::StatusOr<std::vector<std::string>> KeysOf(const LoadtestFlags& flags) {
  const std::string& own = flags.credentials.api_key;
  if (flags.tenants.empty()) return std::vector<std::string>{own};
  std::vector<std::string> keys;
  H2O_ASSIGN_OR_RETURN(const std::vector<TenantKey> tenants,
                       ReadTenants(flags.tenants));
  for (const TenantKey& tenant : tenants) {
    keys.push_back(tenant.key.empty() ? own : tenant.key);
  }
  return keys;
}

absl::StatusOr<std::unique_ptr<Target>> MakeTarget(
    const LoadtestFlags& flags, const std::vector<std::string>& keys,
    const std::string& name, const Pace* pace) {
  if (name.find("://") == std::string::npos) {
    return NewGrpcTarget({.server = name, .credentials = flags.credentials},
                         keys, flags.timeout_seconds, pace);
  }
  H2O_ASSIGN_OR_RETURN(HttpServerPlace place,
                       HttpServerPlaceOf("--target", name, flags.credentials));
  return NewHttpTarget({.url = std::move(place.url),
                        .tls = std::move(place.tls),
                        .keys = keys,
                        .model = flags.model,
                        .more_fields = flags.http_fields,
                        .silence_seconds = flags.timeout_seconds},
                       pace);
}

absl::StatusOr<Targets> TargetsOf(const LoadtestFlags& flags,
                                  const Pace* pace) {
  // Of a generator, whose targets the leader names later.
  H2O_RETURN_IF_ERROR(ReadCredentials(flags.credentials).status());
  H2O_ASSIGN_OR_RETURN(const std::vector<std::string> keys, KeysOf(flags));
  return Targets([&flags, keys, pace](const std::string& name) {
    return MakeTarget(flags, keys, name, pace);
  });
}

// ---- Looking on

// Signals, and a line that says how the run goes.
class Looker {
 public:
  explicit Looker(bool quiet) : shown_(!quiet && isatty(STDERR_FILENO) == 1) {}

  // False after a signal.
  bool GoOn() {
    if (signals_.Taken()) {
      const auto meaning = stop_signals_.Take(pace_.Now());
      if (meaning == StopSignals::Meaning::kAtOnce) std::_Exit(kFault);
      stopped_ = true;
    }
    return !stopped_;
  }

  bool Look(const LoadProgress& progress, double seconds) {
    if (shown_ && pace_.Now() - told_ >= 0.5) {
      told_ = pace_.Now();
      Show(progress, seconds);
    }
    return GoOn();
  }

  void Clear() const {
    if (shown_) std::fputs("\r\033[K", stderr);
  }

  bool stopped() const { return stopped_; }
  std::string label;

 private:
  void Show(const LoadProgress& p, double seconds) const {
    const std::string line =
        seconds < 0 ? "waiting for generators to join"
                    : absl::StrFormat(
                          "%.0f s: %d sent, %d answered, %d in flight, %d "
                          "refused, %d failed, %d tokens",
                          seconds, p.sent, p.ok, p.in_flight(), p.refused,
                          p.failed, p.tokens);
    std::fprintf(stderr, "\r%s%s\033[K", label.c_str(), line.c_str());
    std::fflush(stderr);
  }

  const BlockedSignals signals_;
  const SteadyPace pace_;
  StopSignals stop_signals_;
  const bool shown_;
  double told_ = 0;
  bool stopped_ = false;
};

// ---- Runs

// The last run at a rate that kept the SLO, or the last one at all.
struct Outcomes {
  Report report;
  std::vector<RequestRecord> records;
  std::optional<LimitReport> limit;
};

absl::StatusOr<Outcomes> RunOnce(const LoadSpec& spec, const Slo& slo,
                                 Fleet* fleet, Looker* looker) {
  H2O_ASSIGN_OR_RETURN(
      RunResult result,
      fleet->Run(spec, [looker](const LoadProgress& progress, double seconds) {
        return looker->Look(progress, seconds);
      }));
  looker->Clear();
  Outcomes outcomes;
  outcomes.report = MakeReport(spec, slo, result.records, result.clocks);
  outcomes.records = std::move(result.records);
  return outcomes;
}

absl::StatusOr<Outcomes> FindLimit(LoadSpec spec, const LoadtestFlags& flags,
                                   Fleet* fleet, Looker* looker) {
  LimitSearch search(flags.limit);
  LimitReport limit;
  Outcomes best;
  const uint64_t seed = spec.seed;
  while (const std::optional<double> rate = search.NextRate()) {
    spec.rate = {{0, *rate}};
    spec.seed = seed + limit.probes.size();  // each sees other requests
    looker->label = absl::StrFormat("%.3g requests/s, ", *rate);
    H2O_ASSIGN_OR_RETURN(Outcomes run,
                         RunOnce(spec, flags.Limits(), fleet, looker));
    if (looker->stopped()) break;
    const Report& report = run.report;
    const bool kept = report.keeps_up && report.GoodShare() >= flags.slo_share;
    limit.probes.push_back({*rate, report.GoodShare(), report.keeps_up, kept,
                            report.PerSecond(report.all.output_tokens)});
    if (!flags.json) {
      std::fprintf(stderr, "%8.3f requests/s: %.1f %% good%s: %s\n", *rate,
                   100 * report.GoodShare(),
                   report.keeps_up ? "" : ", falls behind",
                   kept ? "kept" : "missed");
    }
    search.Tell(kept);
    if (kept || best.report.all.requests == 0) best = std::move(run);
  }
  limit.rate = search.limit();
  limit.too_much = search.too_much();
  best.limit = std::move(limit);
  return best;
}

// ---- Results

absl::Status WriteFile(const std::string& path, const std::string& text) {
  H2O_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
  file.Append(text);
  return file.Commit();
}

absl::StatusOr<NewFile> NewLog(const std::string& folder) {
  return NewFile::Create(absl::StrCat(folder, "/requests.jsonl"));
}

// Before the run, so that its result is not lost.
absl::Status MakeFolder(const std::string& folder) {
  std::error_code fault;
  std::filesystem::create_directories(folder, fault);
  if (!fault) return NewLog(folder).status();
  return absl::PermissionDeniedError(
      absl::StrCat("cannot make the folder ", folder, ": ", fault.message()));
}

absl::Status WriteReport(const std::string& folder, const Json& json,
                         const Outcomes& outcomes) {
  H2O_ASSIGN_OR_RETURN(NewFile log, NewLog(folder));
  for (const RequestRecord& record : outcomes.records) {
    log.Append(absl::StrCat(ToJson(record), "\n"));
  }
  H2O_RETURN_IF_ERROR(log.Commit());
  H2O_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/report.json"),
                                absl::StrCat(json.dump(2), "\n")));
  return WriteFile(absl::StrCat(folder, "/report.html"),
                   ReportHtml(outcomes.report, outcomes.limit));
}

// That nothing was answered is a fault, with the first error.
absl::Status VerdictOf(const Report& report) {
  if (report.all.ok > 0 || report.all.requests == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      "none of ", report.all.requests,
      " requests was answered; the first error: ", report.first_error));
}

absl::Status Tell(const Outcomes& outcomes, const LoadtestFlags& flags) {
  Json json = ReportJson(outcomes.report);
  if (outcomes.limit) json["find_limit"] = LimitJson(*outcomes.limit);
  std::string text = flags.json ? absl::StrCat(json.dump(), "\n")
                                : ReportText(outcomes.report);
  if (!flags.json && outcomes.limit) {
    absl::StrAppend(&text, LimitText(*outcomes.limit));
  }
  std::fputs(text.c_str(), stdout);
  if (!flags.report.empty()) {
    H2O_RETURN_IF_ERROR(WriteReport(flags.report, json, outcomes));
  }
  return VerdictOf(outcomes.report);
}

absl::Status Join(const LoadtestFlags& flags, Targets* targets, Pace* pace,
                  Looker* looker) {
  const absl::StatusOr<HttpUrl> leader =
      ParseHttpUrl(absl::StrCat("http://", flags.join));
  if (!leader.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--join: '", flags.join, "' is no address; give HOST:PORT"));
  }
  char host[HOST_NAME_MAX + 1] = "";
  gethostname(host, sizeof(host) - 1);
  const std::function<bool()> stopped = [looker] { return !looker->GoOn(); };
  return Generate(
      {.leader = *leader, .name = flags.name.empty() ? host : flags.name},
      targets, pace, stopped);
}

absl::StatusOr<std::unique_ptr<Fleet>> FleetOf(const LoadtestFlags& flags,
                                               Targets* targets, Pace* pace) {
  if (flags.listen.empty()) return NewLocalFleet(targets, pace);
  const absl::StatusOr<HostPort> where = ParseHostPort(flags.listen);
  if (!where.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen: ", std::string(where.status().message())));
  }
  H2O_ASSIGN_OR_RETURN(std::unique_ptr<Leader> leader,
                       Leader::Listen(*where, flags.generators, pace));
  std::fprintf(stderr, "listening on %s\n",
               leader->address().ToString().c_str());
  return leader;
}

absl::Status Run(const LoadtestFlags& flags) {
  Looker looker(flags.json);
  SteadyPace pace;
  H2O_ASSIGN_OR_RETURN(Targets targets, TargetsOf(flags, &pace));
  if (!flags.join.empty()) {
    if (!flags.listen.empty() || !flags.targets.empty()) {
      return absl::InvalidArgumentError(
          "--join takes its load from the leader: leave out --listen and "
          "--target");
    }
    return Join(flags, &targets, &pace, &looker);
  }
  H2O_ASSIGN_OR_RETURN(const LoadSpec spec, flags.Spec());
  if (!flags.report.empty()) {
    H2O_RETURN_IF_ERROR(MakeFolder(flags.report));
  }
  if (flags.listen.empty()) {  // a bad target is known before the run
    H2O_RETURN_IF_ERROR(targets.Of(spec.targets).status());
  }
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Fleet> fleet,
                       FleetOf(flags, &targets, &pace));
  H2O_ASSIGN_OR_RETURN(
      const Outcomes outcomes,
      flags.find_limit ? FindLimit(spec, flags, fleet.get(), &looker)
                       : RunOnce(spec, flags.Limits(), fleet.get(), &looker));
  return Tell(outcomes, flags);
}

}  // namespace

void AddLoadtestCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<LoadtestFlags>();
  CLI::App* command = app->add_subcommand(
      "loadtest",
      "Loads servers at a rate, with a number of clients or by a trace, and "
      "reports latencies, goodput and fairness");
  AddLoadtestFlags(command, flags.get());
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
