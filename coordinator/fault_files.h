// The flight recorder's files: one for each fault, with the last steps of the
// group, as JSON.  A file appears whole or not at all, and the oldest go when
// there are too many.
//
// Threads  any; a write may take as long as the disk does.
#pragma once

#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/fault.h"
#include "coordinator/step_history.h"

namespace h2o {

class FaultFiles {
 public:
  static constexpr int kMostFiles = 64;
  // Requests can cause kNonFinite, so these files are rare.
  static constexpr double kNonFiniteSeconds = 60;

  // Into `folder`; empty: nowhere.  `clock`: of the histories.
  FaultFiles(std::string folder, const Clock* clock)
      : folder_(std::move(folder)), clock_(clock) {}

  // Makes the folder.  Errors: INVALID_ARGUMENT if it cannot be written.
  absl::Status Prepare() const;

  // `steps`: null if the group had not run any.  What cannot be written is
  // logged.
  void Write(const Fault& fault, const StepHistory* steps);

 private:
  std::string NextPath(const Fault& fault);
  void RemoveOldest() const;

  const std::string folder_;
  const Clock* const clock_;

  std::mutex mutex_;  // guards what follows; held for no write
  int written_ = 0;
  double last_non_finite_ = -1e9;
};

// The text of a file.  `now`: of the history's clock; times are relative to it.
std::string FaultJson(const Fault& fault, const StepHistory* steps, double now);

}  // namespace h2o
