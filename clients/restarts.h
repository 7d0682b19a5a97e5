// When `serve` starts lost workers again.
#pragma once

#include <algorithm>
#include <optional>

namespace h2o {

// The first loss waits a second, each further one twice as long, up to half a
// minute.  A loss that comes more than a minute after all groups were ready is
// a first one again.  Workers that are lost five times without such a minute
// would be lost for ever.
class Restarts {
 public:
  static constexpr double kFirstSeconds = 1, kLongestSeconds = 30;
  static constexpr double kHealthySeconds = 60;
  static constexpr int kMaxLosses = 5;

  // All groups are ready.
  void Ready(double now) { ready_ = now; }

  // Workers were lost.  Returns in how many seconds they start again, or
  // nothing if they should not.
  std::optional<double> Lost(double now) {
    if (ready_ && now - *ready_ > kHealthySeconds) {
      losses_ = 0;
      wait_ = kFirstSeconds;
    }
    ready_.reset();
    if (++losses_ >= kMaxLosses) return std::nullopt;
    const double wait = wait_;
    wait_ = std::min(2 * wait_, kLongestSeconds);
    return wait;
  }

 private:
  std::optional<double> ready_;  // since when; none: a loss came since
  int losses_ = 0;
  double wait_ = kFirstSeconds;
};

}  // namespace h2o
