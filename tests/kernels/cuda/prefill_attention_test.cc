// Prefill attention on the GPU against float64 and against the plain rule of
// base/kv_policy.h: outputs, log-sum-exps, column sums, kept sets and every
// byte of the cache.
#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "base/head_dim.h"
#include "base/kv_policy.h"
#include "kernels/cuda/kernels.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o {
namespace {

constexpr int kLayers = 3, kLayer = 1;
constexpr int kPadding = 8;      // columns behind each row, never to be used
constexpr int kRowsBehind = 70;  // NaN, behind the last prompt
constexpr double kScoreTolerance = 3e-5;  // of a score

using Policies = std::vector<KvSlots>;  // one a head

// What the heads of a prompt of `length` keep.
Policies MixedPolicies(int length) {
  const auto h2o = [](int c) {
    return SlotsFor(KvPolicyName::kH2o, std::max(c, 1));
  };
  const int k = std::max(length / 6, 2);
  return {SlotsFor(KvPolicyName::kFull, length + 5),
          h2o(length / 5),
          h2o(length),
          h2o(length - 1),
          h2o(1),
          SlotsFor(KvPolicyName::kSink, length / 3 + 1),
          SlotsFor(KvPolicyName::kRecent, length / 4 + 1),
          {0, k - 1, k, k - 1, ScoreRule::kSum},  // FlexGen's
          {2, 10, 5, 5, ScoreRule::kSum},
          {0, 7, 3, 3, ScoreRule::kNone}};
}

// Fills a prompt's rows [length, 3 * width].
using Filler = void (*)(int length, int width, float* rows);

void RandomRows(int length, int width, float* rows) {
  std::mt19937 random(length * 131 + width);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < int64_t{length} * 3 * width; ++i) {
    // Queries of twice the length: some keys are worth much more than others.
    rows[i] = normal(random) * (i % (3 * width) < width ? 2 : 1);
  }
}

// Token 0 takes all attention, what the others get underflows to zero.
void RowsOfOneHitter(int length, int width, float* rows) {
  for (int t = 0; t < length; ++t) {
    float* row = rows + int64_t{t} * 3 * width;
    std::fill_n(row, width, 8.0f);
    std::fill_n(row + width, width, t == 0 ? 8.0f : -8.0f);
    std::fill_n(row + 2 * width, width, static_cast<float>(t % 5));
  }
}

struct Case {
  int head_dim = 64;
  DType dtype = DType::kBFloat16;
  std::vector<int> lengths;
  Policies (*policies)(int length) = MixedPolicies;
  Filler fill = RandomRows;
  bool scored = true;
  int longer = 0;  // max_length is over the longest prompt by this
};

// Everything one launch reads, and what it left behind.
struct Prefill {
  explicit Prefill(const Case& c);

  int width() const { return num_heads * c.head_dim; }
  int begin(int p) const { return starts[p]; }
  const KvHead& Head(int p, int h) const {
    return heads[(p * kLayers + kLayer) * num_heads + h];
  }

  const Case c;
  int num_heads = 0;
  int rows = 0;
  std::vector<int32_t> starts;
  int64_t stride = 0, out_stride = 0;
  std::vector<uint16_t> qkv;  // 16 bits, with padding
  KvPageLayout layout;
  std::vector<std::vector<int32_t>>
      tables;  // of prompt p and head h: its pages
  std::vector<KvHead> heads_before;

  std::vector<uint16_t> out;
  std::vector<float> log_sum_exp, scores;
  std::vector<KvHead> heads;
  std::vector<uint8_t> pool;
};

Prefill::Prefill(const Case& the_case) : c(the_case) {
  num_heads = static_cast<int>(c.policies(1).size());
  starts = {0};
  for (int length : c.lengths) starts.push_back(starts.back() + length);
  rows = starts.back();
  stride = 3 * width() + kPadding;
  out_stride = width() + kPadding;
  qkv.assign((rows + kRowsBehind) * stride, 0xffff);
  for (size_t p = 0; p < c.lengths.size(); ++p) {
    std::vector<float> x(int64_t{c.lengths[p]} * 3 * width());
    c.fill(c.lengths[p], width(), x.data());
    const std::vector<uint16_t> bits = Narrow(x, c.dtype);
    for (int t = 0; t < c.lengths[p]; ++t) {
      std::copy_n(&bits[int64_t{t} * 3 * width()], 3 * width(),
                  &qkv[(begin(p) + t) * stride]);
    }
  }
  layout = {c.head_dim, {c.dtype}};

  // Page tables over a shuffled pool with a few pages that nobody owns.
  const int prompts = static_cast<int>(c.lengths.size());
  int num_pages = 7;
  for (int p = 0; p < prompts; ++p) {
    for (const KvSlots& slots : c.policies(c.lengths[p])) {
      const int64_t pages = CeilDiv(slots.Capacity(), kPageSlots);
      tables.emplace_back(pages);
      num_pages += static_cast<int>(pages);
    }
  }
  std::vector<int32_t> shuffled(num_pages);
  std::iota(shuffled.begin(), shuffled.end(), 0);
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(7));
  auto next = shuffled.begin();
  std::vector<uint32_t> numbers;  // all tables, as the kernels read them
  for (std::vector<int32_t>& table : tables) {
    std::copy_n(next, table.size(), table.begin());
    next += table.size();
    for (int32_t page : table) {
      numbers.push_back(page * layout.PageBytes() / kLineBytes);
    }
  }

  const DeviceArray<uint32_t> device_tables(numbers);
  // Heads of other layers are not to be looked at.
  heads_before.assign(
      prompts * kLayers * num_heads,
      {0xffffffff, layout.format, {1, 2, 3, 3, ScoreRule::kSum}, -7});
  uint32_t at = 0;
  for (int p = 0; p < prompts; ++p) {
    const Policies policies = c.policies(c.lengths[p]);
    for (int h = 0; h < num_heads; ++h) {
      heads_before[(p * kLayers + kLayer) * num_heads + h] = {at, layout.format,
                                                              policies[h], 0};
      at += static_cast<uint32_t>(tables[p * num_heads + h].size());
    }
  }
  const DeviceArray<KvHead> device_heads(heads_before);
  std::vector<KvHead*> pointers;
  for (int p = 0; p < prompts; ++p) {
    pointers.push_back(device_heads.data() + p * kLayers * num_heads);
  }
  const DeviceArray<KvHead*> device_pointers(pointers);
  const DeviceArray<uint16_t> device_qkv(qkv);
  const DeviceArray<int32_t> device_starts(starts);
  const DeviceArray<uint16_t> device_out(rows * out_stride);
  const DeviceArray<float> device_sums(num_heads * rows),
      device_scores(num_heads * rows);
  const DeviceArray<uint8_t> device_pool(num_pages * layout.PageBytes());

  cuda::PrefillAttentionArgs args;
  args.qkv = device_qkv.data();
  args.qkv_stride = stride;
  args.out = device_out.data();
  args.out_stride = out_stride;
  args.heads = device_pointers.data();
  args.starts = device_starts.data();
  args.pool = {reinterpret_cast<std::byte*>(device_pool.data()),
               device_tables.data(), c.head_dim};
  args.dtype = c.dtype;
  args.rows = rows;
  args.num_prompts = prompts;
  args.max_length =
      *std::max_element(c.lengths.begin(), c.lengths.end()) + c.longer;
  args.num_heads = num_heads;
  args.layer = kLayer;
  args.scored = c.scored;
  args.log_sum_exp = device_sums.data();
  args.scores = device_scores.data();
  CheckCuda(cuda::PrefillAttention(args, nullptr));

  out = device_out.Read();
  log_sum_exp = device_sums.Read();
  scores = device_scores.Read();
  heads = device_heads.Read();
  pool = device_pool.Read();
}

// One head of one prompt in float64, from the same 16-bit inputs.
struct Reference {
  std::vector<double> out;        // [length, head_dim]
  std::vector<double> magnitude;  // the same of |values|
  std::vector<double> log_sum_exp, scores;
};

Reference Attend(const Prefill& run, int p, int h) {
  const int d = run.c.head_dim, length = run.c.lengths[p];
  std::vector<double> x[3];  // q, k, v: [length, d]
  for (int part = 0; part < 3; ++part) {
    for (int t = 0; t < length; ++t) {
      for (int i = 0; i < d; ++i) {
        x[part].push_back(LoadElement(run.qkv.data(), run.c.dtype,
                                      (run.begin(p) + t) * run.stride +
                                          (part * run.num_heads + h) * d + i));
      }
    }
  }
  Reference r;
  r.out.assign(length * d, 0);
  r.magnitude.assign(length * d, 0);
  r.log_sum_exp.resize(length);
  r.scores.assign(length, 0);
  std::vector<double> logits(length);
  for (int i = 0; i < length; ++i) {
    double greatest = -INFINITY, sum = 0;
    for (int j = 0; j <= i; ++j) {
      double parts[4] = {};  // apart, so that the additions overlap
      for (int n = 0; n < d; ++n) {
        parts[n % 4] += x[0][i * d + n] * x[1][j * d + n];
      }
      logits[j] = (parts[0] + parts[1] + parts[2] + parts[3]) / std::sqrt(d);
      greatest = std::max(greatest, logits[j]);
    }
    for (int j = 0; j <= i; ++j) sum += std::exp(logits[j] - greatest);
    r.log_sum_exp[i] = greatest + std::log(sum);
    for (int j = 0; j <= i; ++j) {
      const double probability = std::exp(logits[j] - r.log_sum_exp[i]);
      r.scores[j] += probability;
      for (int n = 0; n < d; ++n) {
        r.out[i * d + n] += probability * x[2][j * d + n];
        r.magnitude[i * d + n] += probability * std::abs(x[2][j * d + n]);
      }
    }
  }
  return r;
}

// References of all heads of all prompts, [prompt][head].
std::vector<std::vector<Reference>> AttendAll(const Prefill& run) {
  const int prompts = static_cast<int>(run.c.lengths.size());
  std::vector<std::vector<Reference>> all(
      prompts, std::vector<Reference>(run.num_heads));
  std::atomic<int> next = 0;
  std::vector<std::thread> threads;
  for (unsigned n = 0; n < std::max(1u, std::thread::hardware_concurrency());
       ++n) {
    threads.emplace_back([&] {
      for (int i; (i = next++) < prompts * run.num_heads;) {
        const int p = i / run.num_heads, h = i % run.num_heads;
        all[p][h] = Attend(run, p, h);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return all;
}

// Greatest errors seen, for the reader of the test's output.
struct Errors {
  double out = 0;    // of what rounding allows
  double sums = 0;   // of log-sum-exp
  double score = 0;  // relative
  int near_ties = 0;
};

void CheckOutputs(const Prefill& run, int p, int h, const Reference& want,
                  Errors* errors) {
  const int d = run.c.head_dim;
  const double half_ulp = HalfUlp(run.c.dtype);
  for (int t = 0; t < run.c.lengths[p]; ++t) {
    for (int i = 0; i < d; ++i) {
      // Each probability is rounded to 16 bits once, and so is the sum; tiny
      // probabilities are float16 subnormals.
      const double allowed =
          half_ulp * 1.05 *
              (want.magnitude[t * d + i] + std::abs(want.out[t * d + i])) +
          5e-5;
      const double got =
          LoadElement(run.out.data(), run.c.dtype,
                      (run.begin(p) + t) * run.out_stride + h * d + i);
      const double error = std::abs(got - want.out[t * d + i]) / allowed;
      ASSERT_LE(error, 1) << "prompt " << p << " head " << h << " token " << t
                          << " column " << i << ": " << got << " instead of "
                          << want.out[t * d + i];
      errors->out = std::max(errors->out, error);
    }
    const double error = std::abs(
        run.log_sum_exp[h * run.rows + run.begin(p) + t] - want.log_sum_exp[t]);
    ASSERT_LE(error, 2e-5) << "prompt " << p << " head " << h << " token " << t;
    errors->sums = std::max(errors->sums, error);
  }
}

void CheckScores(const Prefill& run, int p, int h, const Reference& want,
                 Errors* errors) {
  const float* scores = &run.scores[h * run.rows + run.begin(p)];
  double sum = 0;
  for (int t = 0; t < run.c.lengths[p]; ++t) {
    sum += scores[t];
    const double error = std::abs(scores[t] - want.scores[t]);
    ASSERT_LE(error, kScoreTolerance * want.scores[t] + 1e-6)
        << "prompt " << p << " head " << h << " token " << t << ": "
        << scores[t] << " instead of " << want.scores[t];
    if (want.scores[t] > 1e-3) {
      errors->score = std::max(errors->score, error / want.scores[t]);
    }
  }
  ASSERT_NEAR(sum, run.c.lengths[p], 1e-4 * run.c.lengths[p]);
}

// The positions that the head stores, in the order of its slots.
std::vector<int32_t> StoredPositions(const Prefill& run, int p, int h) {
  const std::vector<int32_t>& table = run.tables[p * run.num_heads + h];
  std::vector<int32_t> positions;
  for (int slot = 0; slot < run.Head(p, h).num_slots; ++slot) {
    uint16_t position;
    std::memcpy(&position,
                &run.pool[table[slot / kPageSlots] * run.layout.PageBytes() +
                          run.layout.PositionsOffset() + slot % kPageSlots * 2],
                2);
    positions.push_back(position);
  }
  return positions;
}

// Kept and float64's choice may differ only about the smallest kept score.
void CheckNearTies(const KvSlots& slots, const std::vector<int32_t>& kept,
                   const Reference& want, Errors* errors) {
  const int length = static_cast<int>(want.scores.size());
  if (length <= slots.Capacity()) return;
  const int num_heavy = slots.Capacity() - slots.sinks - slots.prefill_recent;
  std::vector<int> middle(length - slots.sinks - slots.prefill_recent);
  std::iota(middle.begin(), middle.end(), slots.sinks);
  std::stable_sort(middle.begin(), middle.end(), [&](int a, int b) {
    return want.scores[a] > want.scores[b];
  });
  const std::set<int> stored(kept.begin(), kept.end());
  for (int n = 0; n < static_cast<int>(middle.size()); ++n) {
    if ((n < num_heavy) == (stored.count(middle[n]) > 0)) continue;
    ++errors->near_ties;
    ASSERT_GT(num_heavy, 0);
    const double bound = want.scores[middle[num_heavy - 1]];
    ASSERT_LE(std::abs(want.scores[middle[n]] - bound),
              2 * kScoreTolerance * bound)
        << "position " << middle[n];
  }
}

void CheckKept(const Prefill& run, int p, int h, const Reference* want,
               Errors* errors) {
  const KvSlots slots = run.Head(p, h).slots;
  const int length = run.c.lengths[p];
  std::vector<float> scores(length, 0);
  if (slots.score_rule == ScoreRule::kSum) {
    std::copy_n(&run.scores[h * run.rows + run.begin(p)], length,
                scores.begin());
  }
  const std::vector<int32_t> kept = StoredPositions(run, p, h);
  ASSERT_THAT(kept, ::testing::ElementsAreArray(SelectKept(slots, scores)))
      << "prompt " << p << " of " << length << ", head " << h;
  if (want != nullptr && slots.score_rule == ScoreRule::kSum) {
    CheckNearTies(slots, kept, *want, errors);
  }
}

// Every byte of the pool and of the heads: what is kept is there, bit for bit,
// and nothing else changed.
void CheckCache(const Prefill& run) {
  std::vector<uint8_t> pool(run.pool.size(), 0xff);
  std::vector<KvHead> heads = run.heads_before;
  const KvPageLayout& layout = run.layout;
  const int d = run.c.head_dim;
  for (int p = 0; p < static_cast<int>(run.c.lengths.size()); ++p) {
    for (int h = 0; h < run.num_heads; ++h) {
      const std::vector<int32_t>& table = run.tables[p * run.num_heads + h];
      const std::vector<int32_t> kept = StoredPositions(run, p, h);
      KvHead& head = heads[(p * kLayers + kLayer) * run.num_heads + h];
      head.num_slots = static_cast<int32_t>(kept.size());
      for (int slot = 0; slot < head.num_slots; ++slot) {
        uint8_t* page = &pool[table[slot / kPageSlots] * layout.PageBytes()];
        const int at = slot % kPageSlots;
        const uint16_t* row =
            &run.qkv[(run.begin(p) + kept[slot]) * run.stride + h * d];
        std::memcpy(page + layout.KeysOffset() + at * d * 2, row + run.width(),
                    d * 2);
        std::memcpy(page + layout.ValuesOffset() + at * d * 2,
                    row + 2 * run.width(), d * 2);
        const float score =
            head.slots.score_rule == ScoreRule::kSum
                ? run.scores[h * run.rows + run.begin(p) + kept[slot]]
                : 0;
        std::memcpy(page + layout.ScoresOffset() + at * 4, &score, 4);
        const uint16_t position = static_cast<uint16_t>(kept[slot]);
        std::memcpy(page + layout.PositionsOffset() + at * 2, &position, 2);
      }
    }
  }
  const auto [want, got] =
      std::mismatch(pool.begin(), pool.end(), run.pool.begin());
  EXPECT_EQ(want, pool.end())
      << "byte " << (want - pool.begin()) % layout.PageBytes() << " of page "
      << (want - pool.begin()) / layout.PageBytes();
  EXPECT_EQ(std::memcmp(heads.data(), run.heads.data(),
                        heads.size() * sizeof(KvHead)),
            0);
}

// What lies behind the columns of `out`, and the scores of heads without a
// score rule, is as it was.
void CheckUntouched(const Prefill& run) {
  ExpectPoisonBehind(run.width(), run.out_stride, run.out);
  for (int p = 0; p < static_cast<int>(run.c.lengths.size()); ++p) {
    for (int h = 0; h < run.num_heads; ++h) {
      if (run.Head(p, h).slots.score_rule == ScoreRule::kSum) continue;
      for (int t = 0; t < run.c.lengths[p]; ++t) {
        ASSERT_TRUE(std::isnan(run.scores[h * run.rows + run.begin(p) + t]));
      }
    }
  }
}

void CheckRun(const Case& c) {
  const Prefill run(c);
  const std::vector<std::vector<Reference>> want = AttendAll(run);
  Errors errors;
  for (int p = 0; p < static_cast<int>(c.lengths.size()); ++p) {
    for (int h = 0; h < run.num_heads; ++h) {
      ASSERT_NO_FATAL_FAILURE(CheckOutputs(run, p, h, want[p][h], &errors));
      if (run.Head(p, h).slots.score_rule == ScoreRule::kSum) {
        ASSERT_NO_FATAL_FAILURE(CheckScores(run, p, h, want[p][h], &errors));
      }
      ASSERT_NO_FATAL_FAILURE(CheckKept(run, p, h, &want[p][h], &errors));
    }
  }
  CheckCache(run);
  CheckUntouched(run);
  std::printf(
      "head_dim %d %s: out %.2f of allowed, log-sum-exp %.1e, scores %.1e, %d "
      "near ties\n",
      c.head_dim, std::string(Name(c.dtype)).c_str(), errors.out, errors.sums,
      errors.score, errors.near_ties);
}

class CudaPrefillAttention : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { H2O_SKIP_WITHOUT_GPU(); }
};

// Lengths around the tiles of 64 and 128, in no order.
const std::vector<int> kLengths = {200, 1,    65, 513, 31, 128,
                                   2,   1100, 64, 127, 63};

TEST_P(CudaPrefillAttention, BFloat16EqualsFloat64) {
  CheckRun({GetParam(), DType::kBFloat16, kLengths});
}

TEST_P(CudaPrefillAttention, Float16EqualsFloat64) {
  CheckRun({GetParam(), DType::kFloat16, kLengths});
}

// Bit for bit, whatever else is in the batch and however long it might be.
TEST_P(CudaPrefillAttention, PackingChangesNothing) {
  const Prefill packed({GetParam(), DType::kBFloat16, kLengths});
  for (size_t p = 0; p < kLengths.size(); ++p) {
    if (kLengths[p] > 600) continue;
    Case c{GetParam(), DType::kBFloat16, {kLengths[p]}};
    c.longer = 100;
    const Prefill alone(c);
    for (int h = 0; h < packed.num_heads; ++h) {
      for (int t = 0; t < kLengths[p]; ++t) {
        const int row = packed.begin(p) + t, d = GetParam();
        ASSERT_EQ(std::memcmp(&packed.out[row * packed.out_stride + h * d],
                              &alone.out[t * alone.out_stride + h * d], d * 2),
                  0)
            << "prompt of " << kLengths[p] << " head " << h << " token " << t;
        const auto same = [&](const std::vector<float>& a,
                              const std::vector<float>& b) {
          return std::memcmp(&a[h * packed.rows + row], &b[h * alone.rows + t],
                             4) == 0;
        };
        ASSERT_TRUE(same(packed.log_sum_exp, alone.log_sum_exp));
        ASSERT_TRUE(same(packed.scores, alone.scores));
      }
      ASSERT_EQ(StoredPositions(packed, p, h), StoredPositions(alone, 0, h));
    }
  }
}

// Scores that are all zero but one: the oldest stay.
TEST_P(CudaPrefillAttention, OfEqualScoresTheOlderStays) {
  Case c{GetParam(), DType::kFloat16, {300, 70, 1, 129}};
  c.fill = RowsOfOneHitter;
  c.policies = [](int length) -> Policies {
    return {SlotsFor(KvPolicyName::kH2o, length / 2 + 1),
            {3, 20, 10, 10, ScoreRule::kSum}};
  };
  const Prefill run(c);
  for (int p = 0; p < 4; ++p) {
    for (int h = 0; h < run.num_heads; ++h) {
      const float* scores = &run.scores[h * run.rows + run.begin(p)];
      EXPECT_NEAR(scores[0], c.lengths[p], 1e-4 * c.lengths[p]);
      for (int t = 1; t < c.lengths[p]; ++t) ASSERT_EQ(scores[t], 0);
      CheckKept(run, p, h, nullptr, nullptr);
    }
  }
  CheckCache(run);
}

TEST_P(CudaPrefillAttention, WithoutScores) {
  Case c{GetParam(), DType::kBFloat16, {5, 300, 64}};
  c.scored = false;
  c.policies = [](int length) -> Policies {
    return {SlotsFor(KvPolicyName::kFull, length + 40),
            SlotsFor(KvPolicyName::kRecent, 33),
            SlotsFor(KvPolicyName::kSink, 20)};
  };
  CheckRun(c);
}

INSTANTIATE_TEST_SUITE_P(HeadDims, CudaPrefillAttention,
                         ::testing::ValuesIn(kCudaHeadDims));

// Longer than OPT's 2,048.
TEST(CudaLongPrefillAttention, EqualsFloat64) {
  H2O_SKIP_WITHOUT_GPU();
  Case c{64, DType::kBFloat16, {4500}};
  c.policies = [](int length) -> Policies {
    return {SlotsFor(KvPolicyName::kH2o, length / 5),
            SlotsFor(KvPolicyName::kH2o, length - 1)};
  };
  CheckRun(c);
}

}  // namespace
}  // namespace h2o
