// Draws a token on the host: the reference of all devices.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "kernels/backend.h"

namespace h2o {
namespace {

struct Candidate {
  float logit;
  int32_t token;
};
static_assert(sizeof(Candidate) == sizeof(double));

bool Greater(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// The first index whose cumulated weight passes u * total.
int64_t Pick(absl::Span<const double> weights, double total, double u) {
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (u * total < sum) return static_cast<int64_t>(i);
  }
  return static_cast<int64_t>(weights.size()) - 1;
}

}  // namespace

int32_t SampleToken(absl::Span<const float> logits,
                    const SamplingParams& sampling, uint64_t index,
                    absl::Span<double> scratch) {
  const int64_t vocabulary = static_cast<int64_t>(logits.size());
  H2O_CHECK(static_cast<int64_t>(scratch.size()) >= 2 * vocabulary)
      << scratch.size();
  const auto first = std::max_element(logits.begin(), logits.end());
  const float greatest = *first;
  if (!(greatest > -std::numeric_limits<float>::infinity())) return 0;
  if (!(sampling.temperature > 0)) {
    return static_cast<int32_t>(first - logits.begin());
  }

  Candidate* candidates =
      reinterpret_cast<Candidate*>(scratch.data() + vocabulary);
  const double least = LeastLogit(greatest, sampling);
  int64_t n = 0;
  for (int32_t i = 0; i < vocabulary; ++i) {
    if (logits[i] >= least) candidates[n++] = {logits[i], i};
  }
  const bool has_top_p = sampling.top_p > 0 && sampling.top_p < 1;
  int64_t count = n;
  if (sampling.top_k > 0) count = std::min<int64_t>(sampling.top_k, n);
  // Ordered by logit only where the order decides who stays.
  if (has_top_p) {
    std::partial_sort(candidates, candidates + count, candidates + n, Greater);
  } else if (count < n) {
    std::nth_element(candidates, candidates + count, candidates + n, Greater);
    std::sort(candidates, candidates + count,
              [](const Candidate& a, const Candidate& b) {
                return a.token < b.token;
              });
  }
  double* weights = scratch.data();
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    weights[i] =
        std::exp((static_cast<double>(candidates[i].logit) - greatest) /
                 sampling.temperature);
    total += weights[i];
  }
  if (has_top_p) {
    double sum = 0;
    int64_t kept = 0;
    while (kept < count && sum < sampling.top_p * total) sum += weights[kept++];
    count = std::max<int64_t>(kept, 1);
    total = std::accumulate(weights, weights + count, 0.0);
  }
  const double u = UniformDraw(sampling.seed, index);
  return candidates[Pick({weights, static_cast<size_t>(count)}, total, u)]
      .token;
}

}  // namespace h2o
