// Counts of values by bucket, as Prometheus keeps them.
//
// Threads  not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace h2o {

class Histogram {
 public:
  // `bounds` ascend; a value counts in the first bucket whose bound is not less.
  // The last bucket, behind them, has no bound.
  explicit Histogram(std::vector<double> bounds)
      : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

  void Observe(double value) {
    const auto bucket =
        std::lower_bound(bounds_.begin(), bounds_.end(), value);
    ++counts_[bucket - bounds_.begin()];
    ++count_;
    sum_ += value;
  }

  const std::vector<double>& bounds() const { return bounds_; }
  const std::vector<int64_t>& counts() const { return counts_; }  // by bucket
  int64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;
  int64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace h2o
