// A clock that stands still while this process does not run: a frozen
// container, a virtual machine that migrates, SIGSTOP.  A peer may have
// answered in that time and we could not notice, so it does not count against
// the peer.
#pragma once

#include <algorithm>
#include <mutex>

#include "base/clock.h"

namespace h2o {

// Between two calls of Now the clock advances by at most kLongestGap seconds.
// Code that waits for a deadline must call Now every kLookSeconds, or the clock
// runs slow.
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
