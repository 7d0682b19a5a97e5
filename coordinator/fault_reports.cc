// Sends faults of groups to the log and to files.
#include "coordinator/fault_reports.h"

#include <chrono>
#include <optional>

namespace h2o {
namespace {

double UnixSeconds() {
  const std::chrono::duration<double> since_epoch =
      std::chrono::system_clock::now().time_since_epoch();
  return since_epoch.count();
}

}  // namespace

void FaultReports::OnOver(const LostGroup& lost) {
  if (!lost.fault) return;
  log_.Add(*lost.fault);
  // The steps of a group that ran some are the observer's to write.
  if (!lost.was_ready) files_.Write(*lost.fault, nullptr);
}

Engine::GroupObserver FaultReports::ObserverOf(const WorkerGroup& workers) {
  return {.on_lost =
              [this, &workers](const absl::Status&, const StepHistory& steps) {
                const std::optional<Fault> fault = workers.fault();
                if (fault) files_.Write(*fault, &steps);
              },
          .on_non_finite =
              [this, &workers](const std::string& words,
                               const StepHistory& steps) {
                const Fault fault = {.kind = FaultKind::kNonFinite,
                                     .group = workers.info().number,
                                     .unix_seconds = UnixSeconds(),
                                     .words = words};
                log_.Add(fault);
                files_.Write(fault, &steps);
              }};
}

}  // namespace h2o
