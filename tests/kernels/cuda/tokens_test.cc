#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "kernels/sequence_state.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kMark = -77;  // a token that no kernel writes

class TokenKernels : public ::testing::Test {
 protected:
  void SetUp() override { H2O_SKIP_WITHOUT_GPU(); }
};

std::vector<float> NormalLogits(int64_t size, uint64_t seed, float deviation) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(size);
  for (float& v : x) v = deviation * normal(random);
  return x;
}

// ---- states -----------------------------------------------------------------

TEST_F(TokenKernels, BeginDecodeReadsLiveRows) {
  KvHead* const heads = reinterpret_cast<KvHead*>(0x1000);
  std::vector<SequenceState> states(3);
  for (int i = 0; i < 3; ++i) {
    states[i].heads = heads + i;
    states[i].token = 10 + i;
    states[i].position = 100 + i;
  }
  states[1].finish = FinishReason::kStop;
  const std::vector<int32_t> slots = {2, -1, 0, 1};
  const DeviceArray<SequenceState> device_states(states);
  const DeviceArray<int32_t> device_slots(slots), tokens(4), positions(4);
  const DeviceArray<KvHead*> heads_of(4);
  CheckCuda(cuda::BeginDecode(device_states.data(), device_slots.data(), 4,
                              tokens.data(), positions.data(), heads_of.data(),
                              nullptr));
  EXPECT_EQ(tokens.Read(), (std::vector<int32_t>{12, 0, 10, 0}));
  EXPECT_EQ(positions.Read(), (std::vector<int32_t>{102, -1, 100, -1}));
  EXPECT_EQ(heads_of.Read(),
            (std::vector<KvHead*>{heads + 2, nullptr, heads, nullptr}));
}

TEST_F(TokenKernels, AdvanceMovesLiveRows) {
  constexpr int kRows = 300;                         // more than a block
  constexpr int kPrompt = 6, kTokens = kPrompt + 5;  // of a sequence
  std::vector<int32_t> before(kRows * kTokens, kMark);
  for (int i = 0; i < kRows; i += 4) {
    for (int t = 0; t < 3; ++t) before[i * kTokens + kPrompt + t] = 40 + t;
  }
  const DeviceArray<int32_t> all_tokens(before);
  std::vector<SequenceState> states(kRows);
  std::vector<int32_t> slots(kRows), tokens(kRows);
  for (int i = 0; i < kRows; ++i) {
    SequenceState& s = states[i];
    s.num_generated = i % 5;
    s.position = kPrompt + s.num_generated - 1;
    s.tokens = all_tokens.data() + i * kTokens;
    s.max_tokens = 4;
    // None, token 2 alone, or as many as there can be, token 2 the last.
    s.num_stop_tokens = i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : kMaxStopTokens;
    std::fill_n(s.stop_tokens, kMaxStopTokens, 3);
    s.stop_tokens[std::max(s.num_stop_tokens - 1, 0)] = 2;
    if (i % 4 == 0) s.num_forced = 3;
    if (i % 7 == 0) s.finish = FinishReason::kLength;
    slots[i] = i % 11 == 0 ? -1 : kRows - 1 - i;
    tokens[i] = i % 2 == 0 ? 2 : 1000 + i;
  }
  const DeviceArray<SequenceState> device_states(states);
  const DeviceArray<int32_t> device_slots(slots), device_tokens(tokens);
  const DeviceArray<RowResult> results(kRows);
  CheckCuda(cuda::Advance(device_states.data(), device_slots.data(), kRows,
                          device_tokens.data(), results.data(), nullptr));
  const std::vector<SequenceState> after = device_states.Read();
  const std::vector<RowResult> got = results.Read();
  std::vector<int32_t> appended = before;
  int forced_rows = 0;
  for (int r = 0; r < kRows; ++r) {
    const int slot = slots[r];
    if (slot < 0 || states[slot].finish != FinishReason::kNone) {
      EXPECT_EQ(got[r].token, -1) << r;
      EXPECT_EQ(got[r].finish, FinishReason::kNone) << r;
      if (slot >= 0) {
        EXPECT_EQ(after[slot].num_generated, states[slot].num_generated);
      }
      continue;
    }
    const SequenceState& s = states[slot];
    const bool is_forced = s.num_generated < s.num_forced;
    forced_rows += is_forced;
    const int32_t token = is_forced ? 40 + s.num_generated : tokens[r];
    FinishReason finish = FinishReason::kNone;
    if (s.num_generated + 1 == s.max_tokens) finish = FinishReason::kLength;
    const bool stops = token == 2 && s.num_stop_tokens > 0;
    if (stops) finish = FinishReason::kStop;
    EXPECT_EQ(got[r].token, token) << r;
    EXPECT_EQ(got[r].finish, finish) << r;
    EXPECT_EQ(after[slot].token, token) << r;
    EXPECT_EQ(after[slot].finish, finish) << r;
    EXPECT_EQ(after[slot].num_generated, s.num_generated + 1) << r;
    EXPECT_EQ(after[slot].position, s.position + 1) << r;
    appended[slot * kTokens + s.position + 1] = token;
  }
  EXPECT_EQ(all_tokens.Read(), appended);
  EXPECT_GT(forced_rows, 10);
}

// ---- the greatest -----------------------------------------------------------

// The first of the greatest; NaN is none.
int GreatestColumn(absl::Span<const float> row) {
  int best = -1;
  for (int c = 0; c < static_cast<int>(row.size()); ++c) {
    if (std::isnan(row[c])) continue;
    if (best < 0 || row[c] > row[best]) best = c;
  }
  return std::max(best, 0);
}

// Runs ArgMax over rows of `columns`, padded with what would win.
void CheckArgMax(const std::vector<std::vector<float>>& rows) {
  const int64_t columns = rows[0].size();
  const int64_t stride = AlignedStride(columns);
  std::vector<float> logits(rows.size() * stride, kInfinity);
  for (size_t r = 0; r < rows.size(); ++r) {
    std::copy(rows[r].begin(), rows[r].end(), logits.begin() + r * stride);
  }
  constexpr int kFirst = 1000;
  const int count = static_cast<int>(rows.size());
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<BestLogit> best(count);
  CheckCuda(cuda::ArgMax(device_logits.data(), stride, count,
                         static_cast<int>(columns), kFirst, best.data(),
                         nullptr));
  const std::vector<BestLogit> got = best.Read();
  for (int r = 0; r < count; ++r) {
    const int want = GreatestColumn(rows[r]);
    ASSERT_EQ(got[r].token, kFirst + want) << r << " of " << columns;
    if (std::isnan(rows[r][want])) {
      ASSERT_TRUE(std::isnan(got[r].logit)) << r;
    } else {
      ASSERT_EQ(got[r].logit, rows[r][want]) << r;
    }
  }
}

TEST_F(TokenKernels, ArgMaxFindsTheGreatest) {
  for (const int columns : {1, 3, 50, 4095, 25136, 50272}) {
    for (const int rows : {1, 3, 40, 300}) {
      if (int64_t{columns} * rows > 3000000) continue;
      std::vector<std::vector<float>> x;
      for (int r = 0; r < rows; ++r) {
        x.push_back(NormalLogits(columns, r, 5));
        if (r % 2 == 0) {
          for (float& v : x.back()) v -= 100;  // negative ones only
        }
      }
      CheckArgMax(x);
    }
  }
}

TEST_F(TokenKernels, ArgMaxOfEqualLogitsIsTheLowestColumn) {
  std::mt19937 random(3);
  std::vector<std::vector<float>> x;
  for (int r = 0; r < 60; ++r) {
    x.emplace_back(50272, -1.0f);
    for (int i = 0; i < 1 + r % 5; ++i) x.back()[random() % 50272] = 3;
  }
  x.emplace_back(50272, -1.0f);  // all equal
  x.emplace_back(50272, -kInfinity);
  x.emplace_back(50272, -1.0f);
  x.back()[7000] = -0.0f;  // equal to 0
  x.back()[9000] = 0.0f;
  x.emplace_back(50272, -1.0f);
  x.back()[50270] = x.back()[50271] = 1;
  CheckArgMax(x);
}

TEST_F(TokenKernels, ArgMaxNeverIsNaN) {
  std::vector<std::vector<float>> x(6, std::vector<float>(5000, kNaN));
  x[1][4999] = -kInfinity;
  x[2][1234] = -5;
  x[3].assign(5000, 1);
  x[3][0] = kNaN;
  x[4][17] = -kNaN;
  x[4][18] = kInfinity;
  x[5].assign(5000, -kNaN);
  CheckArgMax(x);
}

TEST_F(TokenKernels, PickBestPrefersTheLowestRank) {
  const std::vector<BestLogit> of_ranks = {
      {1, 10}, {5, 11}, {2, 12},    {kNaN, 13}, {kNaN, 0},  // rank 0
      {3, 20}, {5, 21}, {kNaN, 22}, {-1, 23},   {kNaN, 1},  // rank 1
      {2, 30}, {5, 31}, {1, 32},    {-2, 33},   {kNaN, 2},  // rank 2
  };
  const DeviceArray<BestLogit> device(of_ranks);
  const DeviceArray<int32_t> tokens(5);
  CheckCuda(cuda::PickBest(device.data(), 3, 5, tokens.data(), nullptr));
  EXPECT_EQ(tokens.Read(), (std::vector<int32_t>{20, 11, 12, 23, 0}));
}

// ---- draws ------------------------------------------------------------------

// `count` draws from one row by the kernel: seeds of a hundred tokens each.
SamplingParams DrawOf(SamplingParams sampling, int i) {
  sampling.seed += i / 100;
  return sampling;
}
std::vector<int32_t> DeviceDraws(const std::vector<float>& logits,
                                 const SamplingParams& sampling, int count) {
  std::vector<SequenceState> states(count);
  std::vector<int32_t> slots(count);
  for (int i = 0; i < count; ++i) {
    states[i].sampling = DrawOf(sampling, i);
    states[i].num_generated = i % 100;
    slots[i] = i;
  }
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<SequenceState> device_states(states);
  const DeviceArray<int32_t> device_slots(slots), tokens(count);
  // All rows are the same one.
  CheckCuda(cuda::Sample(device_logits.data(), 0, count,
                         static_cast<int>(logits.size()), device_states.data(),
                         device_slots.data(), tokens.data(), nullptr));
  return tokens.Read();
}

// The same by SampleToken, on all cores: sorting long rows takes its time.
std::vector<int32_t> HostDraws(const std::vector<float>& logits,
                               const SamplingParams& sampling, int count) {
  std::vector<int32_t> tokens(count);
  const int num_threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (int t = 0; t < num_threads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<double> scratch(2 * logits.size());
      for (int i = t; i < count; i += num_threads) {
        tokens[i] = SampleToken(logits, DrawOf(sampling, i), i % 100,
                                absl::MakeSpan(scratch));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return tokens;
}

// Sums within about 1e-9 of a draw may fall on either side: one in a thousand
// draws may differ, though none is to be expected.
void ExpectSameDraws(const std::vector<float>& logits,
                     const SamplingParams& sampling, int count) {
  const std::vector<int32_t> got = DeviceDraws(logits, sampling, count);
  const std::vector<int32_t> want = HostDraws(logits, sampling, count);
  int differ = 0;
  std::string first;
  for (int i = 0; i < count; ++i) {
    if (got[i] == want[i]) continue;
    if (differ++ == 0) {
      first = "draw " + std::to_string(i) + " is " + std::to_string(got[i]) +
              ", not " + std::to_string(want[i]);
    }
  }
  EXPECT_LE(differ, count / 1000) << first;
}

class Sampler : public ::testing::TestWithParam<SamplingParams> {
 protected:
  void SetUp() override { H2O_SKIP_WITHOUT_GPU(); }
};

TEST_P(Sampler, DrawsAsSampleTokenFromSmallVocabularies) {
  ExpectSameDraws(NormalLogits(50, 1, 1), GetParam(), 10000);
  ExpectSameDraws(NormalLogits(1001, 2, 2), GetParam(), 10000);
}

TEST_P(Sampler, DrawsAsSampleTokenFromOptsVocabulary) {
  ExpectSameDraws(NormalLogits(50272, 3, 3), GetParam(), 500);
  // As a model that is sure of little, at another level.
  std::vector<float> flat = NormalLogits(50272, 4, 0.5f);
  for (float& x : flat) x -= 40;
  ExpectSameDraws(flat, GetParam(), 200);
}

TEST_P(Sampler, DrawsAsSampleTokenAmongTies) {
  std::vector<float> logits = NormalLogits(2000, 5, 2);
  for (float& x : logits) x = std::round(x);
  logits[10] = -0.0f;
  ExpectSameDraws(logits, GetParam(), 3000);
}

TEST_P(Sampler, NeverDrawsWhatIsImpossible) {
  std::vector<float> logits(300, -kInfinity);
  for (int i = 7; i < 300; i += 10) logits[i] = 0.01f * i;
  for (int i = 8; i < 300; i += 10) logits[i] = kNaN;
  for (const int32_t token : DeviceDraws(logits, GetParam(), 2000)) {
    ASSERT_EQ(token % 10, 7) << token;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Samplers, Sampler,
    ::testing::Values(SamplingParams{1.0f, 0, 0}, SamplingParams{0.7f, 0, 1},
                      SamplingParams{1.5f, 40, 0}, SamplingParams{1, 0, 0.9f},
                      SamplingParams{0.8f, 40, 0.9f},
                      SamplingParams{1, 999, 0.5f}, SamplingParams{1, 1, 0},
                      SamplingParams{0.01f, 5, 0.999f},
                      SamplingParams{1, 0, 1e-6f},
                      SamplingParams{1, 60000, 0.9f}));

TEST_F(TokenKernels, TenThousandDrawsPassChiSquare) {
  constexpr int kTokens = 50, kDraws = 10000;
  const std::vector<float> logits = NormalLogits(kTokens, 6, 1);
  const SamplingParams sampling = {0.9f, 0, 0, 4711};
  double total = 0;
  for (float x : logits) total += std::exp(x / 0.9);
  std::vector<int> seen(kTokens);
  for (const int32_t token : DeviceDraws(logits, sampling, kDraws)) {
    ASSERT_GE(token, 0);
    ASSERT_LT(token, kTokens);
    ++seen[token];
  }
  double chi_square = 0;
  for (int t = 0; t < kTokens; ++t) {
    const double expected = std::exp(logits[t] / 0.9) / total * kDraws;
    chi_square += (seen[t] - expected) * (seen[t] - expected) / expected;
  }
  EXPECT_LT(chi_square, 85.35);  // the 0.999 quantile for 49 degrees
}

TEST_F(TokenKernels, SampleLeavesOtherRowsAlone) {
  constexpr int64_t kStride = AlignedStride(1000);
  std::vector<SequenceState> states(3);
  states[0].sampling = {1.0f, 1, 0, 5};  // the greatest
  states[1].sampling = {0.0f, 0, 0, 5};
  states[2].sampling = {1.0f, 0, 0, 5};
  states[2].finish = FinishReason::kLength;
  std::vector<float> logits(5 * kStride);
  for (int r = 0; r < 5; ++r) logits[r * kStride + 100 * r + 7] = 1;
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<SequenceState> device_states(states);
  const DeviceArray<int32_t> slots(std::vector<int32_t>{1, 2, -1, 0, 1});
  const DeviceArray<int32_t> tokens(std::vector<int32_t>(5, kMark));
  CheckCuda(cuda::Sample(device_logits.data(), kStride, 5, 1000,
                         device_states.data(), slots.data(), tokens.data(),
                         nullptr));
  EXPECT_EQ(tokens.Read(),
            (std::vector<int32_t>{kMark, kMark, kMark, 307, kMark}));
}

TEST_F(TokenKernels, SampleOfNoNumbersIsTokenZero) {
  for (const float x : {kNaN, -kInfinity}) {
    for (const SamplingParams& sampling :
         {SamplingParams{1, 0, 0}, SamplingParams{1, 5, 0.5f}}) {
      EXPECT_EQ(DeviceDraws(std::vector<float>(100, x), sampling, 3),
                std::vector<int32_t>(3, 0));
    }
  }
}

// ---- all of it, as a graph --------------------------------------------------

// What ends a step and begins the next, recorded once and replayed.
TEST_F(TokenKernels, ReplayInAGraph) {
  constexpr int kRows = 3, kColumns = 1000, kSteps = 5;
  const int64_t stride = AlignedStride(kColumns);
  const std::vector<float> logits = NormalLogits(kRows * stride, 8, 2);
  std::vector<SequenceState> states(kRows);
  for (int r = 0; r < kRows; ++r) {
    states[r].max_tokens = kSteps - r;
    states[r].position = 10 * r;
    states[r].sampling = {r == 1 ? 1.0f : 0.0f, 0, 0.9f, 99};
  }
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<SequenceState> device_states(states);
  const DeviceArray<int32_t> slots(std::vector<int32_t>{0, 1, 2});
  const DeviceArray<int32_t> inputs(kRows), positions(kRows), tokens(kRows);
  const DeviceArray<KvHead*> heads(kRows);
  const DeviceArray<BestLogit> best(kRows);
  const DeviceArray<RowResult> results(kRows);

  Recording recording([&](cudaStream_t stream) {
    CheckCuda(cuda::BeginDecode(device_states.data(), slots.data(), kRows,
                                inputs.data(), positions.data(), heads.data(),
                                stream));
    CheckCuda(cuda::ArgMax(device_logits.data(), stride, kRows, kColumns, 0,
                           best.data(), stream));
    CheckCuda(cuda::PickBest(best.data(), 1, kRows, tokens.data(), stream));
    CheckCuda(cuda::Sample(device_logits.data(), stride, kRows, kColumns,
                           device_states.data(), slots.data(), tokens.data(),
                           stream));
    CheckCuda(cuda::Advance(device_states.data(), slots.data(), kRows,
                            tokens.data(), results.data(), stream));
  });

  std::vector<double> scratch(2 * kColumns);
  std::vector<int32_t> last(kRows, 0);  // what the step before gave
  for (int step = 0; step < kSteps; ++step) {
    recording.Replay();
    const std::vector<RowResult> got = results.Read();
    const std::vector<int32_t> began = inputs.Read(), at = positions.Read();
    for (int r = 0; r < kRows; ++r) {
      const absl::Span<const float> row(logits.data() + r * stride, kColumns);
      const bool runs = step < states[r].max_tokens;
      int32_t want = GreatestColumn(row);
      if (r == 1) {
        want =
            SampleToken(row, states[r].sampling, step, absl::MakeSpan(scratch));
      }
      EXPECT_EQ(got[r].token, runs ? want : -1) << step << ", " << r;
      EXPECT_EQ(got[r].finish == FinishReason::kLength,
                step + 1 == states[r].max_tokens)
          << step << ", " << r;
      EXPECT_EQ(began[r], runs ? last[r] : 0) << step << ", " << r;
      EXPECT_EQ(at[r], runs ? 10 * r + step : -1) << step << ", " << r;
      last[r] = want;
    }
  }
}

}  // namespace
}  // namespace h2o
