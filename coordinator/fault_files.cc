// Writes what is known of a fault into a folder.
#include "coordinator/fault_files.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/new_file.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

// With six digits behind the point.
double Rounded(double seconds) { return std::round(1e6 * seconds) / 1e6; }

Json IdsJson(const FirstIds& ids) {
  return {
      {"count", ids.count},
      {"first", std::vector<uint64_t>(ids.known().begin(), ids.known().end())}};
}

Json StepJson(const StepRecord& step, double now) {
  const bool done = step.done > 0;
  Json ranks = Json::array();
  for (const RankSeconds& rank : step.ranks) {
    ranks.push_back(
        {{"step_seconds", Rounded(rank.step_seconds)},
         {"all_reduce_wait_seconds", Rounded(rank.sum_wait_seconds)}});
  }
  return {{"step", step.step},
          {"sent", Rounded(step.sent - now)},
          {"done", done ? Json(Rounded(step.done - now)) : Json()},
          {"pages_held", step.pages_held},
          {"retired", IdsJson(step.retired)},
          {"admitted", IdsJson(step.admitted)},
          {"prefilled", IdsJson(step.prefilled)},
          {"layers", {step.layer_begin, step.layer_end}},
          {"decoded", IdsJson(step.decoded)},
          {"tokens", step.tokens},
          {"checksum", absl::StrFormat("%016x", step.checksum)},
          {"ranks", done ? std::move(ranks) : Json()}};
}

absl::Time TimeOf(const Fault& fault) {
  return absl::FromUnixMicros(std::llround(1e6 * fault.unix_seconds));
}

bool IsFaultFile(const std::string& name) {
  return absl::StartsWith(name, "fault-") && absl::EndsWith(name, ".json");
}

}  // namespace

std::string FaultJson(const Fault& fault, const StepHistory* steps,
                      double now) {
  Json json = {{"kind", Name(fault.kind)},
               {"group", fault.group},
               {"rank", fault.rank},
               {"device", fault.place.device},
               {"address", fault.place.address},
               {"pid", fault.place.pid},
               {"when", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", TimeOf(fault),
                                         absl::UTCTimeZone())},
               {"words", fault.words},
               {"steps", Json::array()}};
  if (steps != nullptr) {
    for (const StepRecord* step : steps->Records()) {
      json["steps"].push_back(StepJson(*step, now));
    }
  }
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::Status FaultFiles::Prepare() const {
  if (folder_.empty()) return absl::OkStatus();
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (!std::filesystem::is_directory(folder_) ||
      access(folder_.c_str(), W_OK | X_OK) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--fault-dir ", folder_, "; it must be a folder that can be written"));
  }
  return absl::OkStatus();
}

void FaultFiles::Write(const Fault& fault, const StepHistory* steps) {
  if (folder_.empty()) return;
  const double now = clock_->Now();
  if (fault.kind == FaultKind::kNonFinite) {
    std::lock_guard lock(mutex_);
    if (now - last_non_finite_ < kNonFiniteSeconds) return;
    last_non_finite_ = now;
  }
  const std::string path = NextPath(fault);
  absl::StatusOr<NewFile> file = NewFile::Create(path);
  absl::Status status = file.status();
  if (file.ok()) {
    file->Append(FaultJson(fault, steps, now));
    status = file->Commit();
  }
  if (!status.ok()) {
    H2O_LOG(LogLevel::kWarning)
        << "no file for the fault: " << status.message();
    return;
  }
  H2O_LOG() << "the last steps before the fault are in " << path;
  RemoveOldest();
}

std::string FaultFiles::NextPath(const Fault& fault) {
  std::lock_guard lock(mutex_);
  const std::string when =
      absl::FormatTime("%Y%m%dT%H%M%E3S", TimeOf(fault), absl::UTCTimeZone());
  return absl::StrFormat("%s/fault-%s-%d-group%d-%s.json", folder_, when,
                         ++written_, fault.group, Name(fault.kind));
}

void FaultFiles::RemoveOldest() const {
  // Names begin with the time.
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder_, error), end;
       !error && it != end; it.increment(error)) {
    if (IsFaultFile(it->path().filename())) files.push_back(it->path());
  }
  if (files.size() <= size_t{kMostFiles}) return;
  std::sort(files.begin(), files.end());
  for (size_t i = 0; i + kMostFiles < files.size(); ++i) {
    std::filesystem::remove(files[i], error);
  }
}

}  // namespace h2o
