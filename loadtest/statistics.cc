// Computes what the report says of measured values.
#include "loadtest/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "loadtest/draws.h"

namespace h2o {
namespace {

// Values drawn in all resamples together, which bounds the time.
constexpr int64_t kMostDrawn = 4'000'000;
constexpr int64_t kFewestResamples = 40, kMostResamples = 400;

// Like QuantileOfSorted, of values that stand `weights[i]` times each.  Asked
// in ascending order of rank.
class WeightedRanks {
 public:
  WeightedRanks(const std::vector<Sample>& sorted,
                const std::vector<int>& weight_of_request)
      : sorted_(sorted), weights_(weight_of_request) {
    for (const Sample& sample : sorted) total_ += weights_[sample.request];
  }

  int64_t total() const { return total_; }

  double Quantile(double q) {
    const double place = q * static_cast<double>(total_ - 1);
    const auto rank = static_cast<int64_t>(place);
    const double low = At(rank);
    // The next quantile may be of this rank too, so only a copy looks ahead.
    const double high =
        rank + 1 < total_ ? WeightedRanks(*this).At(rank + 1) : low;
    return low + (high - low) * (place - static_cast<double>(rank));
  }

 private:
  double At(int64_t rank) {
    while (passed_ + weights_[sorted_[i_].request] <= rank) {
      passed_ += weights_[sorted_[i_].request];
      ++i_;
    }
    return sorted_[i_].value;
  }

  const std::vector<Sample>& sorted_;
  const std::vector<int>& weights_;
  int64_t total_ = 0;
  int64_t passed_ = 0;  // ranks before those of sorted_[i_]
  size_t i_ = 0;
};

// How often each request is drawn in one resample of them.  A request without
// samples takes no part.
std::vector<int> DrawWeights(const std::vector<int>& requests, int end,
                             Draws* draws) {
  std::vector<int> weights(end, 0);
  const auto count = static_cast<int64_t>(requests.size());
  for (int64_t i = 0; i < count; ++i) {
    ++weights[requests[draws->Below(count)]];
  }
  return weights;
}

std::vector<int> RequestsOf(const std::vector<Sample>& samples) {
  std::vector<int> requests;
  requests.reserve(samples.size());
  for (const Sample& sample : samples) requests.push_back(sample.request);
  std::sort(requests.begin(), requests.end());
  requests.erase(std::unique(requests.begin(), requests.end()), requests.end());
  return requests;
}

void AddIntervals(const std::vector<Sample>& sorted, uint64_t seed,
                  Distribution* described) {
  const std::vector<int> requests = RequestsOf(sorted);
  const auto count = static_cast<int64_t>(sorted.size());
  const int64_t resamples =
      std::clamp(kMostDrawn / count, kFewestResamples, kMostResamples);
  std::array<std::vector<double>, kQuantiles.size()> drawn;
  for (int64_t r = 0; r < resamples; ++r) {
    Draws draws(seed, r, DrawFor::kResample);
    const std::vector<int> weights =
        DrawWeights(requests, requests.back() + 1, &draws);
    WeightedRanks ranks(sorted, weights);
    for (size_t q = 0; q < kQuantiles.size(); ++q) {
      drawn[q].push_back(ranks.Quantile(kQuantiles[q]));
    }
  }
  for (size_t q = 0; q < kQuantiles.size(); ++q) {
    std::sort(drawn[q].begin(), drawn[q].end());
    described->quantiles[q].low = QuantileOfSorted(drawn[q], 0.025);
    described->quantiles[q].high = QuantileOfSorted(drawn[q], 0.975);
  }
}

}  // namespace

double QuantileOfSorted(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return 0;
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto i = static_cast<size_t>(place);
  const double high = sorted[std::min(i + 1, sorted.size() - 1)];
  return sorted[i] + (high - sorted[i]) * (place - static_cast<double>(i));
}

Distribution Describe(const std::vector<Sample>& samples, uint64_t seed) {
  Distribution described;
  described.count = static_cast<int64_t>(samples.size());
  if (samples.empty()) return described;
  std::vector<Sample> sorted = samples;
  std::sort(sorted.begin(), sorted.end(),
            [](const Sample& a, const Sample& b) { return a.value < b.value; });
  for (const Sample& sample : sorted) {
    described.sorted.push_back(sample.value);
    described.mean += sample.value / static_cast<double>(sorted.size());
  }
  described.min = described.sorted.front();
  described.max = described.sorted.back();
  for (size_t q = 0; q < kQuantiles.size(); ++q) {
    described.quantiles[q].value =
        QuantileOfSorted(described.sorted, kQuantiles[q]);
  }
  AddIntervals(sorted, seed, &described);
  return described;
}

double JainIndex(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (const double value : values) {
    sum += value;
    squares += value * value;
  }
  if (squares <= 0) return 1;
  return sum * sum / (static_cast<double>(values.size()) * squares);
}

}  // namespace h2o
