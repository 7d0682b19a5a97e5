// The same plans on both twins: a CPU shard that computes in float32 and a GPU
// shard in 16 bits, on the same weights stored in 16 bits.
//
// Tokens are forced, so that both process the same; a head's kept set may then
// differ only where the scores at stake are close, and once it does, what the
// head keeps from then on is another story, so a set is compared until its
// first difference, and differences are counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "parallel/solo_communicator.h"
#include "worker/shard_runner.h"

namespace h2o {
namespace {

constexpr int kLayers = 3;

OptConfig SmallGpuConfig(int head_dim) {
  OptConfig config;
  config.name = "small";
  config.num_layers = kLayers;
  config.num_heads = 4;
  config.hidden_size = 4 * head_dim;
  config.ffn_dim = 8 * head_dim;
  config.vocab_size = 1000;
  config.max_positions = 512;
  config.embed_dim = config.hidden_size;
  return config;
}

std::unique_ptr<ShardRunner> MakeRunner(const OptConfig& config, bool gpu,
                                        const char* dtype, const Clock* clock) {
  ShardOptions options;
  options.config = config;
  options.model.dummy = true;
  options.model.dummy_seed = 5;
  options.model.dtype = options.model.kv_dtype = dtype;
  options.device.cuda = gpu;
  options.num_threads = 4;
  options.kv_pool_bytes = 256 << 20;
  options.max_sequences = 24;
  return ShardRunner::Create(options, std::make_unique<SoloCommunicator>(),
                             clock, nullptr)
      .value();
}

SequenceSpec RandomSpec(uint64_t id, std::mt19937* random, int vocabulary) {
  const auto number = [random](int low, int high) {
    return low + static_cast<int>((*random)() % (high - low + 1));
  };
  SequenceSpec spec;
  spec.id = id;
  const int prompt = number(1, 200), steps = number(1, 120);
  for (int i = 0; i < prompt; ++i) {
    spec.prompt.push_back(number(0, vocabulary - 1));
  }
  for (int i = 0; i <= steps; ++i) {  // the last, which is not processed, too
    spec.forced.push_back(number(0, vocabulary - 1));
  }
  spec.max_tokens = steps + 1;
  spec.ignore_eos = true;
  const KvPolicyName names[] = {KvPolicyName::kFull, KvPolicyName::kH2o,
                                KvPolicyName::kSink, KvPolicyName::kRecent};
  const KvPolicyName name = names[number(0, 3)];
  spec.policy.name = name;
  spec.policy.slots = {SlotsFor(
      name, name == KvPolicyName::kFull ? prompt + steps : number(2, 100))};
  spec.trace = spec.logits = true;
  return spec;
}

// What is left to do with an admitted sequence.
struct Script {
  SequenceSpec spec;
  int tokens = 0;  // planned
};

using HeadId = std::tuple<uint64_t, int, int>;

struct Comparison {
  int64_t logits = 0, argmax_near = 0, sets = 0, parted = 0;
  std::set<HeadId> parted_heads;
  std::set<uint64_t> parted_sequences;
  double worst = 0;
};

void Compare(const StepResult& cpu, const StepResult& gpu, double tolerance,
             Comparison* c) {
  ASSERT_EQ(cpu.step, gpu.step);
  ASSERT_EQ(cpu.checksum, gpu.checksum) << "step " << cpu.step;
  ASSERT_EQ(cpu.tokens.size(), gpu.tokens.size());
  ASSERT_EQ(cpu.trace.size(), gpu.trace.size());
  for (size_t i = 0; i < cpu.trace.size(); ++i) {
    const HeadTrace &a = cpu.trace[i], &b = gpu.trace[i];
    ASSERT_EQ(std::tie(a.sequence_id, a.layer, a.head, a.pos),
              std::tie(b.sequence_id, b.layer, b.head, b.pos));
    ASSERT_EQ(a.kept.size(), b.kept.size());
    ASSERT_EQ(a.evicted < 0, b.evicted < 0);
    const HeadId head{a.sequence_id, a.layer, a.head};
    if (c->parted_heads.contains(head)) continue;
    ++c->sets;
    if (a.kept != b.kept || a.evicted != b.evicted) {
      ++c->parted;
      c->parted_heads.insert(head);
      c->parted_sequences.insert(a.sequence_id);
    }
  }
  std::map<std::pair<uint64_t, int>, const LogitRows*> theirs;
  for (const LogitRows& l : gpu.logits) {
    theirs[{l.sequence_id, l.first_position}] = &l;
  }
  ASSERT_EQ(cpu.logits.size(), gpu.logits.size());
  for (const LogitRows& l : cpu.logits) {
    const LogitRows* other = theirs[{l.sequence_id, l.first_position}];
    ASSERT_NE(other, nullptr);
    ASSERT_EQ(l.rows.size(), other->rows.size());
    if (c->parted_sequences.contains(l.sequence_id)) continue;
    double spread = 0;
    for (float x : l.rows) spread += double{x} * x;
    spread = std::sqrt(spread / static_cast<double>(l.rows.size()));
    for (size_t i = 0; i < l.rows.size(); ++i) {
      const double off = std::abs(l.rows[i] - other->rows[i]) / spread;
      c->worst = std::max(c->worst, off);
      ASSERT_LT(off, tolerance)
          << "sequence " << l.sequence_id << " position " << l.first_position
          << " element " << i << " of " << l.rows.size();
    }
    ++c->logits;
    const auto ours = std::max_element(l.rows.begin(), l.rows.end());
    const auto best = std::max_element(other->rows.begin(), other->rows.end());
    if (ours - l.rows.begin() != best - other->rows.begin()) {
      ++c->argmax_near;
      ASSERT_LT(*ours - l.rows[best - other->rows.begin()],
                2 * tolerance * spread);
    }
  }
}

class Twins : public ::testing::TestWithParam<std::tuple<int, const char*>> {
 protected:
  void SetUp() override {
    const absl::Status there = CheckGpu(0);
    if (!there.ok()) GTEST_SKIP() << there;
  }
};

TEST_P(Twins, AgreeOn500StepsOfRandomTraffic) {
  const auto [head_dim, dtype] = GetParam();
  const SteadyClock clock;
  const OptConfig config = SmallGpuConfig(head_dim);
  const auto cpu = MakeRunner(config, false, dtype, &clock);
  const auto gpu = MakeRunner(config, true, dtype, &clock);
  std::mt19937 random(7);
  std::map<uint64_t, Script> open;
  uint64_t next_id = 1;
  Comparison comparison;
  const double tolerance = std::string(dtype) == "fp16" ? 0.03 : 0.2;
  for (uint64_t step = 1; step <= 500; ++step) {
    StepPlan plan;
    plan.step = step;
    // Some are done, some are cancelled.
    for (auto it = open.begin(); it != open.end();) {
      const bool done = it->second.tokens == it->second.spec.max_tokens;
      if (done || random() % 50 == 0) {
        plan.retire.push_back(it->first);
        it = open.erase(it);
      } else {
        ++it;
      }
    }
    PrefillSlice slice{{}, 0, kLayers};
    for (int i = 0; i < 2 && open.size() < 24 && random() % 3 == 0; ++i) {
      const uint64_t id = next_id++;
      open[id].spec = RandomSpec(id, &random, config.vocab_size);
      open[id].tokens = 1;
      plan.admit.push_back(open[id].spec);
      slice.sequence_ids.push_back(id);
    }
    if (!slice.sequence_ids.empty()) plan.prefill = {slice};
    for (auto& [id, script] : open) {
      if (script.tokens >= script.spec.max_tokens) continue;
      ++script.tokens;
      plan.decode.push_back(id);
    }
    const auto a = cpu->Run(plan), b = gpu->Run(plan);
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    Compare(*a, *b, tolerance, &comparison);
    if (HasFatalFailure()) FAIL() << "at step " << step;
    ASSERT_EQ(cpu->free_pages(), gpu->free_pages());
  }
  std::printf(
      "%ld logit rows, worst %.4f of their spread, %ld argmax near; %ld kept "
      "sets, %ld heads parted of %lu sequences\n",
      long{comparison.logits}, comparison.worst, long{comparison.argmax_near},
      long{comparison.sets}, long{comparison.parted},
      static_cast<unsigned long>(next_id));
  EXPECT_GT(comparison.logits, 500);
  // Random weights make random scores, which are seldom close.
  EXPECT_LT(comparison.parted, comparison.sets / 100);
}

INSTANTIATE_TEST_SUITE_P(All, Twins,
                         ::testing::Combine(::testing::Values(64, 80, 128),
                                            ::testing::Values("fp16", "bf16")),
                         [](const auto& info) {
                           return std::string(std::get<1>(info.param)) +
                                  std::to_string(std::get<0>(info.param));
                         });

TEST(GpuRunner, BatchesAndSlicesDoNotChangeGreedyTokens) {
  const absl::Status there = CheckGpu(0);
  if (!there.ok()) GTEST_SKIP() << there;
  const SteadyClock clock;
  const OptConfig config = SmallGpuConfig(64);
  const auto runner = MakeRunner(config, true, "fp16", &clock);
  std::mt19937 random(3);
  uint64_t step = 0;
  const auto run = [&](StepPlan plan) {
    plan.step = ++step;
    return runner->Run(plan).value();
  };
  std::vector<SequenceSpec> specs;
  for (int i = 0; i < 6; ++i) {
    specs.push_back(RandomSpec(i + 1, &random, config.vocab_size));
    specs.back().forced.clear();
    specs.back().prompt.resize(10 + 13 * i, 7);
    specs.back().trace = specs.back().logits = false;
    specs.back().max_tokens = 40;
    specs.back().policy.slots = {SlotsFor(KvPolicyName::kH2o, 40)};
    if (i % 2 == 1) specs.back().sampling = {0.9f, 50, 0.9f, 77u + i};
  }
  // All packed, in slices of one layer, two plans in flight.
  std::map<uint64_t, std::vector<int32_t>> together, alone;
  const auto take = [](const StepResult& r, auto* out) {
    for (const TokenResult& t : r.tokens)
      (*out)[t.sequence_id].push_back(t.token);
  };
  StepPlan plan;
  std::vector<uint64_t> ids;
  plan.admit = specs;
  // One more, in the midst of the pack, leaves between two slices.
  plan.admit.insert(plan.admit.begin() + 3, specs[0]);
  plan.admit[3].id = 99;
  for (const SequenceSpec& s : plan.admit) ids.push_back(s.id);
  for (int layer = 0; layer < kLayers; ++layer) {
    if (layer == kLayers - 1) {
      plan.retire = {99};
      std::erase(ids, uint64_t{99});
    }
    plan.prefill = {{ids, layer, layer + 1}};
    take(run(plan), &together);
    plan.admit.clear();
  }
  EXPECT_FALSE(together.contains(99));
  for (int i = 1; i < 40; ++i) {
    StepPlan decode;
    decode.step = ++step;
    decode.decode = ids;
    ASSERT_TRUE(runner->Launch(decode).ok());
    if (runner->in_flight() == 2) take(runner->Collect().value(), &together);
  }
  while (runner->in_flight() > 0) take(runner->Collect().value(), &together);
  StepPlan retire;
  retire.retire = ids;
  run(retire);
  int same = 0;
  for (const SequenceSpec& s : specs) {
    StepPlan p;
    p.admit = {s};
    p.prefill = {{{s.id}, 0, kLayers}};
    take(run(p), &alone);
    for (int i = 1; i < 40; ++i) {
      StepPlan decode;
      decode.decode = {s.id};
      take(run(decode), &alone);
    }
    StepPlan r;
    r.retire = {s.id};
    run(r);
    ASSERT_EQ(together[s.id].size(), 40u);
    // Another batch is another order of sums: a near tie may go either way.
    same += together[s.id] == alone[s.id];
  }
  EXPECT_GE(same, 4) << "of 6";
}

}  // namespace
}  // namespace h2o
