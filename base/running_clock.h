// A clock that stands still while this process does not run: a frozen
// container, a virtual machine on the move, SIGSTOP.  Deadlines measured by it
// hold nobody to account for time in which we could not have heard of them.
#pragma once

#include <algorithm>
#include <mutex>

#include "base/clock.h"

namespace h2o {

// Between two calls of Now, at most kLongestGap seconds go by.  So whoever
// waits for a moment of this clock looks at it every kLookSeconds at least.
// Thread-safe.
class RunningClock final : public Clock {
 public:
  static constexpr double kLongestGap = 0.5;
  static constexpr double kLookSeconds = 0.25;

  // `clock` must outlive this object.
  explicit RunningClock(const Clock* clock)
      : clock_(clock), seen_(clock->Now()) {}

  double Now() const override {
    std::lock_guard lock(mutex_);
    const double now = clock_->Now();
    running_ += std::min(now - seen_, kLongestGap);
    seen_ = now;
    return running_;
  }

 private:
  const Clock* const clock_;
  mutable std::mutex mutex_;  // guards what follows
  mutable double seen_;
  mutable double running_ = 0;
};

}  // namespace h2o
