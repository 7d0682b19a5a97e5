// Random numbers of one request.  They depend on the run's seed, the request's
// index and the purpose alone, so a request is the same whoever draws it, and
// in whatever order requests are drawn.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/sampling.h"

namespace h2o {

// What a number is drawn for.  Numbers of different purposes are independent.
enum class DrawFor : uint8_t {
  kGap,
  kPromptLength,
  kOutputLength,
  kTraceRow,
  kTenant,
  kPrefix,
  kPrompt,
  kPrefixText,  // the index is the prefix's, not a request's
  kResample,    // of the bootstrap; the index is the resample's
};

class Draws {
 public:
  Draws(uint64_t seed, uint64_t index, DrawFor purpose)
      : seed_(seed),
        index_(index),
        stream_(static_cast<uint64_t>(purpose) << 56) {}

  uint64_t Bits() {
    const auto r = CounterRandom(seed_, index_, stream_++);
    return (static_cast<uint64_t>(r[0]) << 32) | r[1];
  }
  // In (0, 1).
  double Uniform() {
    return (static_cast<double>(Bits() >> 12) + 0.5) * 0x1.0p-52;
  }
  // In [0, count).  REQUIRES: count > 0.
  int64_t Below(int64_t count) {
    const auto drawn =
        static_cast<int64_t>(Uniform() * static_cast<double>(count));
    return drawn < count ? drawn : count - 1;
  }
  double Exponential() { return -std::log(Uniform()); }
  // Box and Muller, "A note on the generation of random normal deviates", 1958.
  double Normal() {
    const double radius = std::sqrt(2 * Exponential());
    return radius * std::cos(2 * M_PI * Uniform());
  }
  // Of scale 1.  Marsaglia and Tsang, "A simple method for generating gamma
  // variables", ACM TOMS 2000; their section 6 for shapes under 1.
  double Gamma(double shape) {
    if (shape < 1) {
      const double power = std::pow(Uniform(), 1 / shape);
      return Gamma(shape + 1) * power;
    }
    const double d = shape - 1.0 / 3;
    const double c = 1 / std::sqrt(9 * d);
    while (true) {
      const double x = Normal();
      const double v = std::pow(1 + c * x, 3);
      if (v <= 0) continue;
      if (std::log(Uniform()) < x * x / 2 + d * (1 - v + std::log(v))) {
        return d * v;
      }
    }
  }

 private:
  const uint64_t seed_, index_;
  uint64_t stream_;
};

}  // namespace h2o
