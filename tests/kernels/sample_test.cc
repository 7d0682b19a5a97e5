// Checks the distribution of draws by SampleToken.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/backend.h"

namespace h2o {
namespace {

// Probabilities of the tokens under `s`, by the words of the definition.
std::map<int, double> Probabilities(const std::vector<float>& logits,
                                    const SamplingParams& s) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return logits[a] > logits[b]; });
  const double most = std::exp(double{logits[order[0]]} / s.temperature);
  std::erase_if(order, [&](int t) {
    return std::exp(double{logits[t]} / s.temperature) < s.min_p * most;
  });
  if (s.top_k > 0 && s.top_k < static_cast<int>(order.size())) {
    order.resize(s.top_k);
  }
  std::map<int, double> p;
  double total = 0;
  for (int t : order) total += std::exp(double{logits[t]} / s.temperature);
  double sum = 0;
  for (int t : order) {
    if (s.top_p > 0 && s.top_p < 1 && sum >= s.top_p) break;
    p[t] = std::exp(double{logits[t]} / s.temperature) / total;
    sum += p[t];
  }
  for (auto& [t, v] : p) v /= sum;
  return p;
}

SamplingParams WithMinP(SamplingParams sampling, float min_p) {
  sampling.min_p = min_p;
  return sampling;
}

// The 0.999 quantile of chi-square with `n` degrees of freedom (Wilson and
// Hilferty's approximation).
double ChiSquareLimit(int n) {
  const double z = 3.09, k = 2.0 / (9.0 * n);
  return n * std::pow(1 - k + z * std::sqrt(k), 3);
}

class Sampler : public ::testing::TestWithParam<SamplingParams> {};

TEST_P(Sampler, TenThousandDrawsPassChiSquare) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  std::vector<float> logits(200);
  for (float& x : logits) x = 2 * normal(random);
  SamplingParams sampling = GetParam();
  const std::map<int, double> p = Probabilities(logits, sampling);
  std::vector<double> scratch(2 * logits.size());
  constexpr int kDraws = 10000;
  std::map<int, int> seen;
  for (int i = 0; i < kDraws; ++i) {
    sampling.seed = 1000 + i / 100;
    ++seen[SampleToken(logits, sampling, i % 100, absl::MakeSpan(scratch))];
  }
  double chi_square = 0, rare_expected = 0, rare_seen = 0;
  int cells = 0;
  for (const auto& [token, probability] : p) {
    const double expected = probability * kDraws;
    if (expected < 5) {
      rare_expected += expected;
      rare_seen += seen[token];
      continue;
    }
    ++cells;
    chi_square +=
        (seen[token] - expected) * (seen[token] - expected) / expected;
  }
  if (rare_expected >= 5) {
    ++cells;
    chi_square += (rare_seen - rare_expected) * (rare_seen - rare_expected) /
                  rare_expected;
  }
  for (const auto& [token, count] : seen) {
    EXPECT_TRUE(count == 0 || p.contains(token)) << token << " is cut off";
  }
  ASSERT_GT(cells, 1);
  EXPECT_LT(chi_square, ChiSquareLimit(cells - 1)) << cells << " cells";
}

INSTANTIATE_TEST_SUITE_P(Samplers, Sampler,
                         ::testing::Values(SamplingParams{1.0f, 0, 0},
                                           SamplingParams{0.7f, 0, 1},
                                           SamplingParams{1.5f, 20, 0},
                                           SamplingParams{1.0f, 0, 0.9f},
                                           SamplingParams{0.8f, 50, 0.95f},
                                           SamplingParams{1.0f, 1000, 0.5f},
                                           WithMinP({1.0f, 0, 0}, 0.05f),
                                           WithMinP({0.7f, 0, 0}, 0.01f),
                                           WithMinP({1.5f, 20, 0}, 0.2f),
                                           WithMinP({1.0f, 0, 0.8f}, 0.05f),
                                           WithMinP({1.3f, 30, 0.9f}, 0.03f)));

TEST(SampleToken, MinPOfOneLeavesTheGreatestAlone) {
  const std::vector<float> logits = {1, 5, 4.999f, 5};
  std::vector<double> scratch(8);
  std::map<int, int> seen;
  for (int i = 0; i < 200; ++i) {
    ++seen[SampleToken(logits, WithMinP({1.0f, 0, 0, 7}, 1), i,
                       absl::MakeSpan(scratch))];
  }
  EXPECT_EQ(seen[1] + seen[3], 200);
  EXPECT_GT(std::min(seen[1], seen[3]), 60);
}

TEST(SampleToken, WithoutATemperatureIsTheLowestOfTheGreatest) {
  const std::vector<float> logits = {1, 5, 5, 2};
  std::vector<double> scratch(8);
  EXPECT_EQ(SampleToken(logits, {0, 3, 0.5f}, 0, absl::MakeSpan(scratch)), 1);
}

TEST(SampleToken, TopKOfOneIsTheLowestOfTheGreatest) {
  const std::vector<float> logits = {1, 5, 5, 2};
  std::vector<double> scratch(8);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(SampleToken(logits, {1.0f, 1, 0, 7}, i, absl::MakeSpan(scratch)),
              1);
    EXPECT_EQ(
        SampleToken(logits, {0.01f, 0, 1e-6f, 7}, i, absl::MakeSpan(scratch)),
        1);
  }
}

TEST(SampleToken, IsAFunctionOfSeedAndIndex) {
  const std::vector<float> logits(1000, 0.0f);
  std::vector<double> scratch(2000);
  int differ = 0;
  for (int i = 0; i < 100; ++i) {
    const auto draw = [&](uint64_t seed, int index) {
      return SampleToken(logits, {1.0f, 0, 0, seed}, index,
                         absl::MakeSpan(scratch));
    };
    EXPECT_EQ(draw(3, i), draw(3, i));
    differ += draw(3, i) != draw(4, i);
    differ += draw(3, i) != draw(3, i + 1);
  }
  EXPECT_GT(differ, 190);
}

}  // namespace
}  // namespace h2o
