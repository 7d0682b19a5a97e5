// Measures how fast requests leave the queue.
#include "coordinator/start_rate.h"

#include <algorithm>
#include <cmath>

namespace h2o {

void StartRate::Pass(double now, bool waiting) {
  const double passed = std::max(now - now_, 0.0);
  now_ = std::max(now, now_);
  if (!waiting) return;
  waiting_seconds_ += passed;
  tokens_ *= std::exp(-passed / kMemorySeconds);
}

void StartRate::Started(int64_t tokens) {
  ++starts_;
  tokens_ += static_cast<double>(tokens);
}

std::optional<double> StartRate::TokensPerSecond() const {
  // At a steady rate, what is remembered tends to the rate times the memory.
  const double remembered =
      kMemorySeconds * (1 - std::exp(-waiting_seconds_ / kMemorySeconds));
  if (starts_ < kLeastStarts || !(remembered > 0)) return std::nullopt;
  return tokens_ / remembered;
}

}  // namespace h2o
