// Measures how fast requests leave the queue.
#include "coordinator/start_rate.h"

#include <algorithm>

namespace h2o {

void StartRate::Pass(double now, bool waiting) {
  if (waiting) waiting_seconds_ += std::max(now - now_, 0.0);
  now_ = std::max(now, now_);
}

void StartRate::Started(int64_t tokens) {
  starts_.push_back({waiting_seconds_, tokens});
  tokens_ += tokens;
  while (starts_.size() > kFew &&
         starts_.front().at < waiting_seconds_ - kMemorySeconds) {
    // The time up to this start goes with it.
    since_ = starts_.front().at;
    tokens_ -= starts_.front().tokens;
    starts_.pop_front();
  }
}

std::optional<double> StartRate::TokensPerSecond() const {
  const double seconds = waiting_seconds_ - since_;
  if (starts_.size() < kLeast || !(seconds > 0)) return std::nullopt;
  return static_cast<double>(tokens_) / seconds;
}

}  // namespace h2o
