// Tells a repeated signal from a second request to stop.
//
// systemd and Slurm signal every process of a job, and a supervisor that gets
// the signal passes it on.  So one stop may reach a process as several signals
// within a short time.  A signal that comes later is a new request: stop at
// once.
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
