// Checks the CPU's attention against float64, prompt and decode, on every
// instruction set.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/stored_slots.h"
#include "kv/kv_cache.h"
#include "tests/kernels/each_target.h"

namespace h2o {
namespace {

// One head in float64, by the words of the rule: full attention over the
// prompt, column sums, then one step at a time.
class ReferenceHead {
 public:
  ReferenceHead(const KvSlots& slots, int head_dim)
      : slots_(slots), d_(head_dim) {}

  std::vector<double> Attend(const float* q, const std::vector<int>& over,
                             std::vector<double>* p) const {
    double sum = 0;
    p->clear();
    for (int j : over) {
      double dot = 0;
      for (int i = 0; i < d_; ++i) dot += double{q[i]} * keys_[j][i];
      p->push_back(std::exp(dot / std::sqrt(double(d_))));
      sum += p->back();
    }
    std::vector<double> out(d_);
    for (size_t j = 0; j < over.size(); ++j) {
      (*p)[j] /= sum;
      for (int i = 0; i < d_; ++i) out[i] += (*p)[j] * values_[over[j]][i];
    }
    return out;
  }

  // Adds token `t`; attends `kept` and itself.
  std::vector<double> Token(const float* q, const float* k, const float* v) {
    keys_.emplace_back(k, k + d_);
    values_.emplace_back(v, v + d_);
    scores_.push_back(0);
    kept_.push_back(static_cast<int>(keys_.size()) - 1);
    std::vector<double> p;
    std::vector<double> out = Attend(q, kept_, &p);
    for (size_t j = 0; j < kept_.size(); ++j) scores_[kept_[j]] += p[j];
    return out;
  }

  void Evict(int recent) {
    const int capacity = slots_.Capacity();
    while (static_cast<int>(kept_.size()) > capacity) {
      int victim = -1;
      for (int j = slots_.sinks; j < static_cast<int>(kept_.size()) - recent;
           ++j) {
        if (victim < 0 || scores_[kept_[j]] <= scores_[kept_[victim]]) {
          victim = j;
        }
      }
      kept_.erase(kept_.begin() + victim);
    }
  }

  const std::vector<int>& kept() const { return kept_; }
  double score(int position) const { return scores_[position]; }

 private:
  const KvSlots slots_;
  const int d_;
  std::vector<std::vector<float>> keys_, values_;
  std::vector<double> scores_;
  std::vector<int> kept_;
};

std::unique_ptr<Backend> MakeBackend(int threads, int heads, int head_dim) {
  CpuBackendOptions options;
  options.num_threads = threads;
  options.max_prompt = options.max_slots = options.max_rows = 1024;
  options.max_inputs = 64;
  options.max_heads = heads;
  options.vocab_size = 16;
  options.head_dim = head_dim;
  return NewCpuBackend(options).value();
}

struct Case {
  int head_dim, prompt, steps;
  KvSlots slots;
  std::vector<KvFormat> formats = {{DType::kFloat32}};  // of both, or of each
};

std::string NamesOf(const std::vector<KvFormat>& formats) {
  std::string names;
  for (const KvFormat& f : formats) names.append(" ").append(Name(f.dtype));
  return names;
}

// x, but for bits that one of `formats` would lose.
float Stored(float x, const std::vector<KvFormat>& formats) {
  for (const KvFormat& f : formats) {
    x = f.dtype == DType::kFloat16 ? FromFloat16(ToFloat16(x))
                                   : FromBFloat16(ToBFloat16(x));
  }
  return x;
}

// Two heads of one layer and sequence, through the backend and the reference.
void RunCase(const Case& c, int threads) {
  SCOPED_TRACE(::testing::Message()
               << "d " << c.head_dim << " prompt " << c.prompt << " C "
               << c.slots.Capacity() << " kv" << NamesOf(c.formats));
  constexpr int kHeads = 2;
  const int width = kHeads * c.head_dim, length = c.prompt + c.steps;
  std::mt19937 random(c.head_dim + c.prompt);
  std::normal_distribution<float> normal;
  std::vector<float> qkv(length * 3 * width);
  for (float& x : qkv) x = Stored(normal(random), c.formats);
  const auto row = [&](int t) { return qkv.data() + t * 3 * width; };

  const auto backend = MakeBackend(threads, kHeads, c.head_dim);
  const KvGeometry geometry{1, kHeads, c.head_dim, c.formats};
  KvPolicy policy;
  policy.slots = {c.slots};
  const int64_t slabs = geometry.SlabsNeeded(policy, length, {0, kHeads});
  const auto cache =
      KvCache::Create({geometry, {0, kHeads}, 2 * slabs, 2, 1024},
                      backend.get())
          .value();
  ASSERT_TRUE(cache->Open(1, policy, length).ok());
  ASSERT_TRUE(cache->Open(2, policy, length).ok());
  // Poison: nothing may be read that was not written.
  std::fill_n(cache->pool().data, 2 * slabs * geometry.SlabBytes(),
              std::byte{0xff});

  std::vector<ReferenceHead> reference(kHeads,
                                       ReferenceHead(c.slots, c.head_dim));
  std::vector<float> out(length * width, std::nanf(""));
  const Matrix all{qkv.data(), length, 3 * width, 3 * width};
  const Matrix outputs{out.data(), length, width, width};
  KvHead* heads = cache->Heads(1);
  const int32_t starts[] = {0, c.prompt};
  backend->PrefillAttention(all.Rows(0, c.prompt), {starts, starts, &heads}, 0,
                            cache->pool(), outputs.Rows(0, c.prompt));
  const auto expect_out = [&](int t, int h, const std::vector<double>& want) {
    for (int i = 0; i < c.head_dim; ++i) {
      ASSERT_NEAR(outputs.Row(t)[h * c.head_dim + i], want[i], 2e-5)
          << "token " << t << " head " << h;
    }
  };
  const auto expect_kept = [&](int t, int h) {
    std::vector<uint16_t> kept(heads[h].num_slots);
    backend->StoredPositions(heads + h, 1, cache->pool(), 0, kept.data());
    std::sort(kept.begin(), kept.end());
    ASSERT_THAT(kept, ::testing::ElementsAreArray(reference[h].kept()))
        << "after token " << t << " head " << h;
    if (c.slots.score_rule == ScoreRule::kNone) return;
    for (int slot = 0; slot < heads[h].num_slots; ++slot) {
      const int position = *cpu::PositionAt(cache->pool(), heads[h], slot);
      const float score = *cpu::ScoreAt(cache->pool(), heads[h], slot);
      ASSERT_NEAR(score, reference[h].score(position),
                  1e-5 * reference[h].score(position) + 1e-6);
    }
  };
  for (int h = 0; h < kHeads; ++h) {
    for (int t = 0; t < c.prompt; ++t) {
      const float* q = row(t) + h * c.head_dim;
      const auto want = reference[h].Token(q, q + width, q + 2 * width);
      expect_out(t, h, want);
    }
    reference[h].Evict(c.slots.prefill_recent);
    expect_kept(c.prompt - 1, h);
  }
  // A copy stores the same and goes on by itself.
  backend->CopyHeads(heads, cache->Heads(2), kHeads, cache->pool());
  cache->Close(1);
  heads = cache->Heads(2);
  for (int h = 0; h < kHeads; ++h) expect_kept(c.prompt - 1, h);
  for (int t = c.prompt; t < length; ++t) {
    int32_t evicted[kHeads];
    const int32_t position = t;
    backend->DecodeAttention(all.Rows(t, 1), {&heads, &position, 0}, 0,
                             cache->pool(), outputs.Rows(t, 1), evicted);
    for (int h = 0; h < kHeads; ++h) {
      const float* q = row(t) + h * c.head_dim;
      const std::vector<int> before = reference[h].kept();
      const auto want = reference[h].Token(q, q + width, q + 2 * width);
      reference[h].Evict(c.slots.recent);
      expect_out(t, h, want);
      expect_kept(t, h);
      // Exactly one goes once full, none before.
      const bool was_full =
          static_cast<int>(before.size()) == c.slots.Capacity();
      ASSERT_EQ(evicted[h] >= 0, was_full);
      if (was_full) {
        ASSERT_THAT(before, ::testing::Contains(evicted[h]));
        ASSERT_THAT(reference[h].kept(),
                    ::testing::Not(::testing::Contains(evicted[h])));
      }
    }
  }
}

class Attention : public EachTarget {};

TEST_P(Attention, EqualsFloat64) {
  const auto h2o = [](int c) { return SlotsFor(KvPolicyName::kH2o, c); };
  for (int d : {16, 64, 80, 128}) {
    RunCase({d, 50, 60, h2o(40)}, 1);
  }
  RunCase({64, 300, 40, h2o(33)}, 2);  // several query tiles and groups
  RunCase({64, 600, 10, h2o(120)}, 2);
  RunCase({64, 1, 70, h2o(16)}, 1);   // a prompt of one token
  RunCase({64, 40, 40, h2o(40)}, 1);  // prompt == budget
  RunCase({64, 39, 40, h2o(41)}, 1);  // prompt < budget
  RunCase({64, 50, 50, h2o(1)}, 1);   // only the token before
  RunCase({64, 20, 30, SlotsFor(KvPolicyName::kFull, 50)}, 1);
  RunCase({64, 70, 80, SlotsFor(KvPolicyName::kSink, 33)}, 1);
  RunCase({64, 70, 80, SlotsFor(KvPolicyName::kRecent, 32)}, 1);
  RunCase({64, 70, 80, {2, 10, 5, 5, ScoreRule::kSum}}, 1);
  RunCase({64, 70, 80, {0, 20, 1, 1, ScoreRule::kSum}}, 1);
  RunCase({64, 70, 80, {0, 19, 20, 19, ScoreRule::kSum}}, 1);  // FlexGen's
}

constexpr KvFormat kFloat32{DType::kFloat32}, kBFloat16{DType::kBFloat16},
    kFloat16{DType::kFloat16};

TEST_P(Attention, SixteenBitCaches) {
  for (const KvFormat& format : {kBFloat16, kFloat16}) {
    for (int d : {64, 80}) {
      RunCase({d, 60, 50, SlotsFor(KvPolicyName::kH2o, 40), {format}}, 1);
    }
  }
}

// Heads of one launch may differ in their formats, and so in their pages.
TEST_P(Attention, FormatsMayDifferPerHead) {
  const KvSlots slots = SlotsFor(KvPolicyName::kH2o, 70);
  for (int threads : {1, 2}) {
    RunCase({64, 90, 50, slots, {kFloat32, kBFloat16}}, threads);
    RunCase({80, 90, 50, slots, {kFloat16, kFloat32}}, threads);
    RunCase({64, 90, 50, slots, {kBFloat16, kFloat16}}, threads);
  }
}

H2O_INSTANTIATE_EACH_TARGET(Attention);

// Column sums of every query add up to the number of queries, whatever the
// number of threads, bit for bit.
TEST(PrefillAttention, ScoresConserveMassAndIgnoreThreads) {
  constexpr int kDim = 64, kHeads = 3, kLength = 700;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> qkv(kLength * 3 * kHeads * kDim);
  for (float& x : qkv) x = normal(random);
  std::vector<std::vector<float>> outs, scores;
  for (int threads : {1, 2, 3}) {
    const auto backend = MakeBackend(threads, kHeads, kDim);
    const auto cache =
        KvCache::Create(
            {{1, kHeads, kDim, {{DType::kFloat32}}}, {0, kHeads}, 100, 1, 1024},
            backend.get())
            .value();
    KvPolicy policy;
    policy.slots = {{0, kLength, 1, 1, ScoreRule::kSum}};
    ASSERT_TRUE(cache->Open(1, policy, kLength).ok());
    std::vector<float> out(kLength * kHeads * kDim);
    KvHead* heads = cache->Heads(1);
    const int32_t starts[] = {0, kLength};
    backend->PrefillAttention(
        {qkv.data(), kLength, 3 * kHeads * kDim, 3 * kHeads * kDim},
        {starts, starts, &heads}, 0, cache->pool(),
        {out.data(), kLength, kHeads * kDim, kHeads * kDim});
    std::vector<float> all;
    for (int h = 0; h < kHeads; ++h) {
      double sum = 0;
      for (int slot = 0; slot < kLength; ++slot) {
        all.push_back(*cpu::ScoreAt(cache->pool(), heads[h], slot));
        sum += all.back();
      }
      EXPECT_NEAR(sum, kLength, 1e-2);
    }
    outs.push_back(out);
    scores.push_back(all);
  }
  for (size_t i = 1; i < outs.size(); ++i) {
    EXPECT_EQ(outs[i], outs[0]);
    EXPECT_EQ(scores[i], scores[0]);
  }
}

}  // namespace
}  // namespace h2o
