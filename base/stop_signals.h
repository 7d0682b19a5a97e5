// Which of the signals that tell a process to stop mean something new.
//
// A whole job is often told to stop at once: systemd and Slurm signal every
// process, and a supervisor that got the signal passes it on.  So a process may
// get several signals that mean the same.  One that comes later is somebody who
// cannot wait.
#pragma once

#include <optional>

namespace h2o {

class StopSignals {
 public:
  // Signals within this time of the first one mean the same.
  static constexpr double kSameSeconds = 1;

  enum class Meaning {
    kStop,    // the first one
    kSame,    // as the first one
    kAtOnce,  // stop without waiting for anything
  };

  // A signal came at `now`.
  Meaning Take(double now) {
    if (!first_) {
      first_ = now;
      return Meaning::kStop;
    }
    return now - *first_ < kSameSeconds ? Meaning::kSame : Meaning::kAtOnce;
  }

 private:
  std::optional<double> first_;
};

}  // namespace h2o
