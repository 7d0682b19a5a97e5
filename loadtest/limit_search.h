// The search for the largest rate that keeps the SLO.
//
// The rate is doubled until it is too much (or halved until it is not), then
// the gap is bisected.  Each rate is tried several times; the majority decides,
// because one short run may be lucky.
//
// Pure: who runs the probes asks NextRate and tells what came.
#pragma once

#include <algorithm>
#include <optional>

#include "base/check.h"

namespace h2o {

struct LimitSearchOptions {
  double first_rate = 1;  // requests per second
  double least_rate = 1.0 / 64;
  double most_rate = 100'000;
  int repeats = 3;          // of each rate
  double precision = 0.05;  // the gap that is left, of the rate
};

class LimitSearch {
 public:
  explicit LimitSearch(const LimitSearchOptions& options)
      : options_(options), rate_(options.first_rate) {}

  // What to probe next; none: the search is over.
  std::optional<double> NextRate() const {
    if (over_) return std::nullopt;
    return rate_;
  }

  // Whether a probe of NextRate() kept the SLO.
  void Tell(bool kept) {
    H2O_CHECK(!over_);
    ++(kept ? kept_ : missed_);
    const int majority = options_.repeats / 2 + 1;
    if (kept_ < majority && missed_ < majority) return;
    Move(kept_ >= majority);
    kept_ = missed_ = 0;
  }

  // The largest rate that kept the SLO; none: even the least rate did not.
  std::optional<double> limit() const {
    if (low_ == kNone) return std::nullopt;
    return low_;
  }
  // The smallest rate that did not; none: even the greatest rate did.
  std::optional<double> too_much() const {
    if (high_ == kNone) return std::nullopt;
    return high_;
  }

 private:
  static constexpr double kNone = -1;

  void Move(bool kept) {
    (kept ? low_ : high_) = rate_;
    if (low_ != kNone && high_ != kNone) {
      rate_ = (low_ + high_) / 2;
      over_ = high_ - low_ <= options_.precision * high_;
    } else if (kept) {
      over_ = rate_ >= options_.most_rate;
      rate_ = std::min(2 * rate_, options_.most_rate);
    } else {
      over_ = rate_ <= options_.least_rate;
      rate_ = std::max(rate_ / 2, options_.least_rate);
    }
  }

  const LimitSearchOptions options_;
  double rate_;
  double low_ = kNone, high_ = kNone;
  int kept_ = 0, missed_ = 0;  // probes of rate_
  bool over_ = false;
};

}  // namespace h2o
