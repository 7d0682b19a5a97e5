// What becomes of a fault: it is counted, remembered and written to a file with
// the last steps of its group.
//
// Threads  any.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/engine.h"
#include "coordinator/fault_files.h"
#include "coordinator/fault_log.h"
#include "coordinator/remote_workers.h"

namespace h2o {

class FaultReports {
 public:
  // `folder` and `clock`: as FaultFiles'.
  FaultReports(const std::string& folder, const Clock* clock)
      : files_(folder, clock) {}

  // Errors: those of FaultFiles::Prepare.
  absl::Status Prepare() const { return files_.Prepare(); }

  // A group is over.
  void OnOver(const LostGroup& lost);
  // For the Engine that `workers` are given to.  Both must outlive the use.
  Engine::GroupObserver ObserverOf(const WorkerGroup& workers);

  const FaultLog& log() const { return log_; }

 private:
  FaultLog log_;
  FaultFiles files_;
};

}  // namespace h2o
