// Runs plans on ShardRunners of a tiny model with random weights: tokens, kept
// slots and logits must not depend on ranks, slices, batches or threads.
#include "worker/shard_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "parallel/solo_communicator.h"
#include "parallel/thread_communicator.h"
#include "tests/worker/choices.h"
#include "tests/worker/tiny_model.h"
#include "worker/decode_pass.h"
#include "worker/shard_setup.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Ranks of one group, each stepped by a thread of its own.
class Ranks {
 public:
  explicit Ranks(int size, const ModelConfig& config = TinyConfig(),
                 int threads = 1, int64_t pool_bytes = 4 << 20,
                 const char* dtype = "") {
    auto communicators = MakeThreadCommunicators(size, 60);
    for (int rank = 0; rank < size; ++rank) {
      ShardOptions options;
      options.config = config;
      options.model.dummy = true;
      options.model.dummy_seed = 5;
      options.model.dtype = options.model.kv_dtype = dtype;
      options.rank = rank;
      options.size = size;
      options.num_threads = threads;
      options.kv_pool_bytes = pool_bytes;
      options.max_sequences = 16;
      auto parts = MakeShardParts(options, std::move(communicators[rank]),
                                  &clock_, nullptr)
                       .value();
      parts_.push_back(parts.get());
      runners_.push_back(ShardRunner::Over(std::move(parts)));
    }
  }

  // One plan on every rank; their results.
  std::vector<absl::StatusOr<StepResult>> Run(const StepPlan& plan) {
    std::vector<absl::StatusOr<StepResult>> results(
        runners_.size(), absl::UnknownError("not run"));
    std::vector<std::thread> threads;
    for (size_t r = 0; r < runners_.size(); ++r) {
      threads.emplace_back([&, r] { results[r] = runners_[r]->Run(plan); });
    }
    for (std::thread& t : threads) t.join();
    return results;
  }
  // The same, all of it well: rank 0's result with everyone's traces.
  StepResult Step(StepPlan plan) {
    plan.step = ++step_;
    auto results = Run(plan);
    StepResult merged = results[0].value();
    for (size_t r = 1; r < results.size(); ++r) {
      EXPECT_EQ(results[r]->checksum, merged.checksum);
      EXPECT_EQ(results[r]->tokens.size(), merged.tokens.size());
      for (HeadTrace& t : results[r]->trace) merged.trace.push_back(t);
    }
    return merged;
  }
  ShardRunner& runner(int rank) { return *runners_[rank]; }
  // The first `count` tokens that a rank's device keeps of an open sequence.
  std::vector<int32_t> TokensOnDevice(int rank, uint64_t id, int count) const {
    const ShardParts& parts = *parts_[rank];
    const int32_t* tokens = parts.TokensAt(parts.cache->Seat(id));
    return {tokens, tokens + count};
  }

 private:
  SteadyClock clock_;
  uint64_t step_ = 0;
  std::vector<ShardParts*> parts_;  // the runners own them
  std::vector<std::unique_ptr<ShardRunner>> runners_;
};

SequenceSpec Spec(uint64_t id, int prompt, int max_tokens, int capacity) {
  SequenceSpec spec;
  spec.id = id;
  std::mt19937 random(static_cast<uint32_t>(id));
  for (int i = 0; i < prompt; ++i) spec.prompt.push_back(random() % 150);
  spec.max_tokens = max_tokens;
  spec.ignore_eos = true;
  spec.policy.slots = {SlotsFor(KvPolicyName::kH2o, capacity)};
  return spec;
}

struct Generated {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
};

// Generates the sequences together; prefill in slices of `layers`.
std::vector<Generated> Generate(Ranks* ranks,
                                const std::vector<SequenceSpec>& specs,
                                int layers = 3) {
  std::map<uint64_t, Generated> out;
  const auto collect = [&](const StepResult& result) {
    for (const TokenResult& t : result.tokens) {
      out[t.sequence_id].tokens.push_back(t.token);
    }
    for (const LogitRows& l : result.logits) {
      auto& all = out[l.sequence_id].logits;
      all.insert(all.end(), l.rows.begin(), l.rows.end());
    }
  };
  StepPlan decode, retire;
  int most = 0;
  for (const SequenceSpec& spec : specs) {
    for (int begin = 0; begin < 3; begin += layers) {
      StepPlan plan;
      if (begin == 0) plan.admit = {spec};
      plan.prefill = {{{spec.id}, begin, std::min(begin + layers, 3)}};
      collect(ranks->Step(plan));
    }
    decode.decode.push_back(spec.id);
    retire.retire.push_back(spec.id);
    most = std::max(most, spec.max_tokens);
  }
  for (int i = 1; i < most; ++i) collect(ranks->Step(decode));
  collect(ranks->Step(retire));
  std::vector<Generated> generated;
  for (const SequenceSpec& spec : specs) generated.push_back(out[spec.id]);
  return generated;
}

TEST(ShardRunner, TokensDoNotDependOnTheNumberOfRanks) {
  std::vector<SequenceSpec> specs = {Spec(1, 40, 50, 24), Spec(2, 1, 50, 16),
                                     Spec(3, 70, 30, 70)};
  specs[2].sampling = {0.8f, 40, 0.95f, 99};
  Ranks one(1);
  const auto expected = Generate(&one, specs);
  for (int size : {2, 3, 4, 6}) {
    Ranks ranks(size);
    const auto got = Generate(&ranks, specs);
    for (size_t i = 0; i < specs.size(); ++i) {
      EXPECT_EQ(got[i].tokens, expected[i].tokens) << "tp " << size;
      EXPECT_EQ(got[i].tokens.size(), size_t(specs[i].max_tokens));
    }
  }
}

TEST(ShardRunner, AloneAndInABatchAreBitwiseEqual) {
  Ranks ranks(2);
  std::vector<SequenceSpec> specs;
  for (int i = 0; i < 9; ++i) {
    specs.push_back(Spec(10 + i, 1 + 11 * i, 20 + i, 8 + 5 * i));
    specs.back().logits = true;
  }
  const auto batch = Generate(&ranks, specs);
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto alone = Generate(&ranks, {specs[i]});
    EXPECT_EQ(alone[0].tokens, batch[i].tokens);
    EXPECT_EQ(alone[0].logits, batch[i].logits);
  }
}

// Sequences with every option that changes how a token is chosen.
std::vector<SequenceSpec> SpecsWithOptions() {
  std::vector<SequenceSpec> specs;
  for (int i = 0; i < 12; ++i) {
    SequenceSpec spec = Spec(30 + i, 1 + 7 * i, 25, 12 + 3 * i);
    SamplingParams& s = spec.sampling;
    if (i % 2 == 0) s = {0.9f, 0, 0, 100u + i};
    if (i % 3 == 0) s.repetition_penalty = 1.4f;
    if (i % 4 == 0) s.min_p = 0.05f;
    if (i % 3 == 1) s.frequency_penalty = 0.5f;
    if (i % 5 == 1) s.presence_penalty = -0.4f;
    if (i % 4 == 1) spec.logit_bias = {{5 + i, 3}, {90 + i, -100}};
    if (i % 6 == 2) {
      spec.ignore_eos = false;
      spec.min_tokens = 20;
      for (int t = 0; t < 30; ++t) spec.stop_tokens.push_back(5 * t);
    }
    specs.push_back(spec);
  }
  return specs;
}

TEST(ShardRunner, OptionsDoNotDependOnBatchesOrRanks) {
  const std::vector<SequenceSpec> specs = SpecsWithOptions();
  Ranks one(1);
  const auto together = Generate(&one, specs);
  for (size_t i = 0; i < specs.size(); ++i) {
    EXPECT_EQ(Generate(&one, {specs[i]})[0].tokens, together[i].tokens) << i;
  }
  for (int size : {2, 3, 4}) {
    Ranks ranks(size);
    const auto got = Generate(&ranks, specs);
    for (size_t i = 0; i < specs.size(); ++i) {
      EXPECT_EQ(got[i].tokens, together[i].tokens) << i << ", tp " << size;
    }
  }
}

// Whoever replays an answer, decoded again or prefilled, goes on as if nothing
// had happened: penalties and min_tokens count what was generated before.
TEST(ShardRunner, OptionsSeeWhatWasGeneratedBefore) {
  Ranks ranks(2);
  for (const SequenceSpec& spec : SpecsWithOptions()) {
    SequenceSpec full = spec;  // prefilled tokens evict nothing
    full.policy.slots = {SlotsFor(KvPolicyName::kFull, 200)};
    const std::vector<int32_t> whole = Generate(&ranks, {full})[0].tokens;
    ASSERT_GE(whole.size(), 20u);
    SequenceSpec exact = full, fast = full;
    exact.forced.assign(whole.begin(), whole.begin() + 15);
    fast.prompt.insert(fast.prompt.end(), whole.begin(), whole.begin() + 15);
    fast.generated = 15;
    EXPECT_EQ(Generate(&ranks, {exact})[0].tokens, whole);
    EXPECT_EQ(Generate(&ranks, {fast})[0].tokens,
              std::vector<int32_t>(whole.begin() + 15, whole.end()));
  }
}

TEST(ShardRunner, LogitsAreReportedAsTheyWereBeforeOptions) {
  Ranks ranks(2);
  SequenceSpec plain = Spec(1, 20, 8, 40);
  plain.logits = true;
  plain.forced = {1, 2, 3, 4, 1, 2, 3};
  SequenceSpec changed = plain;
  changed.sampling.repetition_penalty = 2;
  changed.logit_bias = {{1, 5}};
  changed.stop_tokens = {7};
  changed.min_tokens = 8;
  EXPECT_EQ(Generate(&ranks, {plain})[0].logits,
            Generate(&ranks, {changed})[0].logits);
}

TEST(ShardRunner, NothingEndsASequenceBeforeItsMinTokens) {
  Ranks ranks(1);
  SequenceSpec spec = Spec(1, 5, 40, 40);
  const auto free = Generate(&ranks, {spec})[0].tokens;
  spec.stop_tokens = {free[0], free[1], free[2], free[3]};
  EXPECT_EQ(Generate(&ranks, {spec})[0].tokens.size(), 1u);
  for (int least : {1, 7, 40}) {
    spec.min_tokens = least;
    const auto tokens = Generate(&ranks, {spec})[0].tokens;
    EXPECT_GE(tokens.size(), size_t(least));
    for (int i = 0; i < least; ++i) {
      EXPECT_EQ(std::count(spec.stop_tokens.begin(), spec.stop_tokens.end(),
                           tokens[i]),
                0)
          << i;
    }
  }
}

// What is reported of a sequence that runs beside others, in one pack.
Reported ReportedAmong(Ranks* ranks, const SequenceSpec& spec,
                       const std::vector<SequenceSpec>& others) {
  Reported reported{spec};
  StepPlan plan, decode, retire;
  plan.admit = others;
  plan.admit.insert(plan.admit.begin() + others.size() / 2, spec);
  plan.prefill = {{{}, 0, 3}};
  for (const SequenceSpec& s : plan.admit) {
    plan.prefill[0].sequence_ids.push_back(s.id);
    decode.decode.push_back(s.id);
    retire.retire.push_back(s.id);
  }
  for (int i = 0; i < spec.max_tokens; ++i) {
    reported.Add(ranks->Step(i == 0 ? plan : decode));
  }
  ranks->Step(retire);
  return reported;
}

std::map<int, Logprobs> LogprobsAmong(Ranks* ranks, const SequenceSpec& spec,
                                      const std::vector<SequenceSpec>& others) {
  return ReportedAmong(ranks, spec, others).logprobs;
}

// Prompts have more positions than the workspace has rows for logits.
TEST(ShardRunner, TokensAndLogprobsFollowFromTheRawLogits) {
  for (int size : {1, 3}) {
    Ranks ranks(size);
    const std::vector<SequenceSpec> specs = SpecsWithOptions();
    for (size_t i = 0; i < specs.size(); ++i) {
      SequenceSpec spec = specs[i];
      spec.logits = spec.prompt_logprobs = true;
      spec.top_logprobs = std::min<int>(2 * i, kMostTopLogprobs);
      if (i % 3 == 1) spec.forced = {7, 8, 9};
      const Reported reported = ReportedAmong(
          &ranks, spec, {specs[(i + 1) % 12], specs[(i + 2) % 12]});
      EXPECT_EQ(CheckChoices(reported, 150, {2}), 0) << i;
      ASSERT_EQ(reported.logprobs.size(),
                spec.prompt.size() + reported.tokens.size() - 1);
      // The same alone, but for the last bits: a pack of over 64 rows takes
      // other matrix products.
      spec.logits = false;
      for (const auto& [at, logprobs] : LogprobsAmong(&ranks, spec, {})) {
        const Logprobs& beside = reported.logprobs.at(at);
        EXPECT_EQ(beside.chosen.token, logprobs.chosen.token);
        EXPECT_NEAR(beside.chosen.logprob, logprobs.chosen.logprob, 1e-4);
        EXPECT_EQ(beside.top.size(), logprobs.top.size());
      }
    }
  }
}

TEST(ShardRunner, LogprobsAreReportedOnlyWhereTheyAreAskedFor) {
  Ranks ranks(2);
  SequenceSpec plain = Spec(1, 10, 5, 20), asks = Spec(2, 10, 5, 20);
  EXPECT_TRUE(LogprobsAmong(&ranks, plain, {}).empty());
  asks.top_logprobs = 0;
  EXPECT_TRUE(LogprobsAmong(&ranks, plain, {asks}).empty());
  const auto at = LogprobsAmong(&ranks, asks, {plain});
  ASSERT_EQ(at.size(), 5u);  // the prompt's were not asked for
  EXPECT_TRUE(at.contains(10) && at.contains(14));
  EXPECT_TRUE(at.at(12).top.empty());
  // Of a prompt of one token there are none; of one that ends with generated
  // tokens, those of the prompt alone.
  asks.prompt_logprobs = true;
  SequenceSpec shortest = asks, again = asks;
  shortest.prompt.resize(1);
  EXPECT_EQ(LogprobsAmong(&ranks, shortest, {}).begin()->first, 1);
  again.generated = 4;
  const auto rest = LogprobsAmong(&ranks, again, {});
  EXPECT_TRUE(rest.contains(1) && rest.contains(5) && rest.contains(10));
  EXPECT_FALSE(rest.contains(6) || rest.contains(9));
}

TEST(ShardRunner, SlicedPrefillIsBitwiseTheUnsliced) {
  for (int size : {1, 2}) {
    Ranks ranks(size);
    SequenceSpec spec = Spec(1, 130, 10, 40);
    spec.logits = true;
    const auto whole = Generate(&ranks, {spec}, 3);
    EXPECT_EQ(Generate(&ranks, {spec}, 1)[0].logits, whole[0].logits);
    EXPECT_EQ(Generate(&ranks, {spec}, 2)[0].logits, whole[0].logits);
    EXPECT_EQ(whole[0].logits.size(), size_t(139 * 150));
  }
}

// Who wants no logits of the prompt gets its last rows only through the last
// layer.
TEST(ShardRunner, TokensAreTheSameWithAndWithoutLogitsOfThePrompt) {
  for (int size : {1, 3}) {
    Ranks ranks(size);
    for (int length : {1, 2, 40, 130}) {
      SequenceSpec spec = Spec(1, length, 10, 16);
      const auto without = Generate(&ranks, {spec});
      spec.logits = true;
      const auto with = Generate(&ranks, {spec});
      EXPECT_EQ(without[0].tokens, with[0].tokens) << length << ", tp " << size;
    }
  }
}

TEST(ShardRunner, ABudgetThatHoldsEverythingIsBitwiseTheFullCache) {
  Ranks ranks(1);
  SequenceSpec full = Spec(1, 50, 20, 1);
  full.logits = true;
  SequenceSpec h2o = full;
  full.policy.slots = {SlotsFor(KvPolicyName::kFull, 69)};
  h2o.policy.slots = {SlotsFor(KvPolicyName::kH2o, 69)};
  EXPECT_EQ(Generate(&ranks, {full})[0].logits,
            Generate(&ranks, {h2o})[0].logits);
}

TEST(ShardRunner, DecodeThroughTheFullCacheIsPrefill) {
  Ranks ranks(2);
  SequenceSpec prefill = Spec(1, 60, 1, 1);
  prefill.logits = true;
  prefill.policy.slots = {SlotsFor(KvPolicyName::kFull, 60)};
  SequenceSpec decode = prefill;
  decode.forced.assign(prefill.prompt.begin() + 7, prefill.prompt.end());
  decode.prompt.resize(7);
  decode.max_tokens = 54;
  const auto a = Generate(&ranks, {prefill})[0].logits;
  const auto b = Generate(&ranks, {decode})[0].logits;
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-4);
}

TEST(ShardRunner, TheDeviceKeepsPromptForcedAndGeneratedTokens) {
  Ranks ranks(2);
  // As long as a sequence can be; forced all through; forced at first, beside
  // one that is free.
  std::vector<SequenceSpec> specs = {Spec(1, 250, 7, 40), Spec(2, 20, 7, 40),
                                     Spec(3, 1, 7, 40), Spec(4, 9, 7, 40)};
  specs[1].forced = {7, 6, 5, 4, 3, 2};
  specs[2].forced = {11, 12, 13};
  StepPlan admit, decode;
  admit.admit = specs;
  std::map<uint64_t, std::vector<int32_t>> expected;
  for (const SequenceSpec& spec : specs) {
    expected[spec.id] = spec.prompt;
    admit.prefill.push_back({{spec.id}, 0, 3});
    decode.decode.push_back(spec.id);
  }
  for (int token = 0; token < 7; ++token) {
    const StepResult result = ranks.Step(token == 0 ? admit : decode);
    for (const TokenResult& t : result.tokens) {
      expected[t.sequence_id].push_back(t.token);
    }
  }
  EXPECT_THAT(
      std::vector<int32_t>(expected[3].begin() + 1, expected[3].begin() + 4),
      ElementsAre(11, 12, 13));
  for (const SequenceSpec& spec : specs) {
    const auto& tokens = expected[spec.id];
    ASSERT_EQ(tokens.size(), spec.prompt.size() + 7);
    for (int rank : {0, 1}) {
      EXPECT_EQ(ranks.TokensOnDevice(rank, spec.id, tokens.size()), tokens)
          << "rank " << rank << ", sequence " << spec.id;
    }
  }
}

TEST(ShardRunner, ThreadsDoNotChangeABit) {
  SequenceSpec spec = Spec(1, 100, 20, 32);
  spec.logits = true;
  Ranks one(1, TinyConfig(), 1), three(1, TinyConfig(), 3);
  EXPECT_EQ(Generate(&one, {spec})[0].logits,
            Generate(&three, {spec})[0].logits);
}

TEST(ShardRunner, BudgetsPerHeadAreKept) {
  Ranks ranks(2);
  SequenceSpec spec = Spec(1, 80, 20, 1);
  spec.trace = true;
  spec.policy.slots.clear();
  for (int i = 0; i < 18; ++i) {
    spec.policy.slots.push_back(SlotsFor(KvPolicyName::kH2o, 10 + 3 * i));
  }
  StepPlan plan;
  plan.admit = {spec};
  plan.prefill = {{{1}, 0, 3}};
  const StepResult result = ranks.Step(plan);
  ASSERT_EQ(result.trace.size(), 18u);
  for (const HeadTrace& t : result.trace) {
    EXPECT_EQ(static_cast<int>(t.kept.size()), 10 + 3 * (t.layer * 6 + t.head));
  }
}

TEST(ShardRunner, StopsAtAnyStopTokenUnlessTold) {
  ModelConfig config = TinyConfig();
  SequenceSpec spec = Spec(1, 5, 40, 40);
  Ranks ranks(1, config);
  const auto free = Generate(&ranks, {spec})[0].tokens;
  ASSERT_EQ(free.size(), 40u);
  // From now on the third token ends a text, and so do 31 that do not come.
  config.stop_tokens.clear();
  for (int32_t token = 0; config.stop_tokens.size() + 1 < kMaxStopTokens;
       ++token) {
    if (std::find(free.begin(), free.end(), token) != free.end()) continue;
    config.stop_tokens.push_back(token);
  }
  config.stop_tokens.push_back(free[2]);
  Ranks stopping(1, config);
  EXPECT_EQ(Generate(&stopping, {spec})[0].tokens, free);
  spec.ignore_eos = false;
  const auto first = std::find(free.begin(), free.end(), free[2]);
  EXPECT_EQ(Generate(&stopping, {spec})[0].tokens,
            std::vector<int32_t>(free.begin(), first + 1));
}

TEST(ShardRunner, StopsAtTheRequestsOwnStopTokens) {
  SequenceSpec spec = Spec(1, 5, 40, 40);
  Ranks ranks(1, TinyConfig());
  const auto free = Generate(&ranks, {spec})[0].tokens;
  spec.stop_tokens = {free[2]};
  const auto first = std::find(free.begin(), free.end(), free[2]);
  EXPECT_EQ(Generate(&ranks, {spec})[0].tokens,
            std::vector<int32_t>(free.begin(), first + 1));
}

TEST(ShardRunner, ARetiredPrefillLeavesNothingBehind) {
  Ranks ranks(1);
  const int64_t free = ranks.runner(0).free_slabs();
  StepPlan plan;
  plan.admit = {Spec(1, 50, 5, 20), Spec(2, 50, 5, 20)};
  plan.prefill = {{{1}, 0, 2}};
  ranks.Step(plan);
  StepPlan next;
  next.retire = {1};
  next.prefill = {{{2}, 0, 3}};
  EXPECT_EQ(ranks.Step(next).tokens.size(), 1u);
  StepPlan last;
  last.retire = {2};
  ranks.Step(last);
  EXPECT_EQ(ranks.runner(0).free_slabs(), free);
}

// The middle one of three prompts in a pack is retired between two slices; the
// others go on as if it were there, and its pages serve another meanwhile.
TEST(ShardRunner, APackOutlivesOneOfItsPrompts) {
  const auto first_tokens = [](bool retire) {
    Ranks ranks(1);
    StepPlan plan;
    plan.admit = {Spec(1, 30, 5, 20), Spec(2, 40, 5, 20), Spec(3, 50, 5, 20)};
    plan.prefill = {{{1, 2, 3}, 0, 2}};
    ranks.Step(plan);
    StepPlan next;
    if (retire) {
      next.retire = {2};
      next.admit = {Spec(4, 60, 5, 20)};
      next.prefill = {{{1, 3}, 2, 3}, {{4}, 0, 3}};
    } else {
      next.prefill = {{{1, 2, 3}, 2, 3}};
    }
    std::map<uint64_t, int32_t> tokens;
    for (const TokenResult& t : ranks.Step(next).tokens) {
      tokens[t.sequence_id] = t.token;
    }
    return tokens;
  };
  std::map<uint64_t, int32_t> whole = first_tokens(false);
  std::map<uint64_t, int32_t> rest = first_tokens(true);
  ASSERT_EQ(whole.size(), 3u);
  ASSERT_EQ(rest.size(), 3u);
  EXPECT_EQ(rest[1], whole[1]);
  EXPECT_EQ(rest[3], whole[3]);
  Ranks alone(1);
  EXPECT_EQ(rest[4], Generate(&alone, {Spec(4, 60, 5, 20)})[0].tokens[0]);
}

// Forks of `source` with ids behind it; each draws with a seed of its own.
std::vector<SequenceSpec> Party(const SequenceSpec& source, int size) {
  std::vector<SequenceSpec> party = {source};
  for (int i = 1; i < size; ++i) {
    SequenceSpec& fork = party.emplace_back(source);
    fork.id = source.id + i;
    fork.sampling.seed = source.sampling.seed + i;
    fork.fork_of = source.id;
  }
  return party;
}

// What a sequence produced: tokens, logits, traces, logprobs and kept scores.
struct Told {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
  std::vector<HeadTrace> trace;
  std::vector<Logprobs> logprobs;
  std::vector<std::pair<int32_t, double>> scores;

  void Add(uint64_t id, const StepResult& result) {
    for (const TokenResult& t : result.tokens) {
      if (t.sequence_id == id) tokens.push_back(t.token);
    }
    for (const LogitRows& l : result.logits) {
      if (l.sequence_id != id) continue;
      logits.insert(logits.end(), l.rows.begin(), l.rows.end());
    }
    for (HeadTrace t : result.trace) {
      if (t.sequence_id == id) trace.push_back((t.sequence_id = 0, t));
    }
    for (const LogprobRows& l : result.logprobs) {
      if (l.sequence_id != id) continue;
      logprobs.insert(logprobs.end(), l.rows.begin(), l.rows.end());
    }
    for (const KeptScores& s : result.scores) {
      if (s.sequence_id == id) scores.emplace_back(s.queries, s.sum);
    }
  }
  friend bool operator==(const Told&, const Told&) = default;
};

// Prefills specs[0], in slices of `layers`, and decodes all of them.
std::vector<Told> RunParty(Ranks* ranks, const std::vector<SequenceSpec>& specs,
                           int layers = 3) {
  std::vector<Told> told(specs.size());
  const auto step = [&](const StepPlan& plan) {
    const StepResult result = ranks->Step(plan);
    for (size_t i = 0; i < specs.size(); ++i) told[i].Add(specs[i].id, result);
  };
  for (int begin = 0; begin < 3; begin += layers) {
    StepPlan plan;
    if (begin == 0) plan.admit = specs;
    plan.prefill = {{{specs[0].id}, begin, std::min(begin + layers, 3)}};
    step(plan);
  }
  StepPlan decode, retire;
  for (const SequenceSpec& spec : specs) {
    decode.decode.push_back(spec.id);
    retire.retire.push_back(spec.id);
  }
  for (int i = 1; i < specs[0].max_tokens; ++i) step(decode);
  step(retire);
  return told;
}

// Bit by bit, whatever the policy, the ranks and the slices: prompts shorter
// and longer than the budget, greedy and sampled.
TEST(ShardRunner, ForksAreWhatSequencesOfTheirOwnAre) {
  for (int size : {1, 2, 3, 4}) {
    Ranks ranks(size, TinyConfig(), 1, 4 << 20, size < 3 ? "bf16" : "float32");
    const int64_t free = ranks.runner(0).free_slabs();
    for (const KvPolicyName policy :
         {KvPolicyName::kFull, KvPolicyName::kH2o, KvPolicyName::kRecent,
          KvPolicyName::kSink}) {
      for (const int prompt : {5, 100}) {
        SequenceSpec source = Spec(1, prompt, 12, 1);
        source.policy.name = policy;
        source.policy.slots = {
            SlotsFor(policy, policy == KvPolicyName::kFull ? 120 : 40)};
        source.trace = source.scores = true;
        source.logits = prompt == 5;
        const bool draws = size % 2 == 0;
        if (draws) {
          source.sampling = {.temperature = 1,
                             .top_p = 0.95f,
                             .seed = 17,
                             .repetition_penalty = 1.2f,
                             .presence_penalty = 0.3f};
          source.logit_bias = {{7, 2}};
          source.min_tokens = 4;
          source.top_logprobs = 3;
          source.prompt_logprobs = prompt == 100;
        }
        const std::vector<SequenceSpec> party = Party(source, 4);
        const auto forks = RunParty(&ranks, party, 1 + size % 3);
        for (size_t i = 0; i < party.size(); ++i) {
          SequenceSpec alone = party[i];
          alone.fork_of = 0;
          EXPECT_TRUE(RunParty(&ranks, {alone})[0] == forks[i])
              << Name(policy) << ", prompt " << prompt << ", tp " << size
              << ", choice " << i;
        }
        EXPECT_EQ(forks[1].tokens == forks[0].tokens, !draws);
      }
    }
    EXPECT_EQ(ranks.runner(0).free_slabs(), free);
  }
}

// A fork's pages are its own: it goes on when its source has gone.
TEST(ShardRunner, ForksOutliveTheirSource) {
  Ranks ranks(2);
  SequenceSpec source = Spec(1, 60, 20, 24);
  source.sampling = {1.0f, 0, 0, 3};
  const auto whole = RunParty(&ranks, Party(source, 2));
  StepPlan first;
  first.admit = Party(source, 2);
  first.prefill = {{{1}, 0, 3}};
  Told told;
  told.Add(2, ranks.Step(first));
  StepPlan next;
  next.retire = {1};
  next.admit = {Spec(7, 60, 20, 24)};  // takes the source's pages
  next.prefill = {{{7}, 0, 3}};
  next.decode = {2};
  told.Add(2, ranks.Step(next));
  for (int i = 2; i < 20; ++i) told.Add(2, ranks.Step({.decode = {7, 2}}));
  EXPECT_EQ(told.tokens, whole[1].tokens);
}

// The source is retired before its prefill has begun or between two slices:
// the first fork goes on in its place, and the others wait for that one.
TEST(ShardRunner, AForkInheritsAPrefill) {
  for (const int layers_before : {0, 1, 2}) {
    Ranks ranks(2);
    const int64_t free = ranks.runner(1).free_slabs();
    SequenceSpec source = Spec(1, 60, 20, 24);
    source.sampling = {1.0f, 0, 0, 3};
    const auto whole = RunParty(&ranks, Party(source, 4));
    StepPlan first, next;
    first.admit = Party(source, 4);
    first.admit.push_back(Spec(9, 10, 20, 24));
    if (layers_before > 0) first.prefill = {{{9, 1}, 0, layers_before}};
    ranks.Step(first);
    next.retire = {3, 1};
    next.admit = {Spec(7, 60, 20, 24)};  // takes their pages
    next.prefill = {{{9, 2}, layers_before, 3}, {{7}, 0, 3}};
    std::map<uint64_t, Told> told;
    const auto step = [&](const StepPlan& plan) {
      const StepResult result = ranks.Step(plan);
      for (uint64_t id : {2, 4}) told[id].Add(id, result);
    };
    step(next);
    for (int i = 1; i < 20; ++i) step({.decode = {4, 7, 2, 9}});
    EXPECT_EQ(told[2].tokens, whole[1].tokens) << layers_before;
    EXPECT_EQ(told[4].tokens, whole[3].tokens) << layers_before;
    ranks.Step({.retire = {2, 4, 7, 9}});
    EXPECT_EQ(ranks.runner(1).free_slabs(), free);
  }
}

TEST(ShardRunner, RefusesPlansThatDoNotFollow) {
  const auto refuse = [](const StepPlan& plan, const char* what) {
    Ranks ranks(1);
    StepPlan first;
    first.step = 1;
    first.admit = {Spec(1, 10, 5, 8), Spec(2, 10, 5, 8)};
    first.prefill = {{{1}, 0, 3}};
    ASSERT_TRUE(ranks.Run(first)[0].ok());
    const auto result = ranks.Run(plan)[0];
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(result.status().message(), HasSubstr(what));
  };
  refuse({.step = 3}, "lockstep");
  refuse({.step = 1}, "lockstep");
  refuse({.step = 2, .retire = {9}}, "sequence 9");
  refuse({.step = 2, .decode = {9}}, "sequence 9");
  refuse({.step = 2, .decode = {2}}, "before its prefill");
  refuse({.step = 2, .prefill = {{{1}, 0, 3}}}, "does not follow");
  refuse({.step = 2, .prefill = {{{2}, 1, 3}}}, "does not follow");
  refuse({.step = 2, .prefill = {{{2}, 0, 4}}}, "does not follow");
  refuse({.step = 2, .admit = {Spec(1, 10, 5, 8)}}, "open already");
  refuse({.step = 2, .admit = {Spec(3, 0, 5, 8)}}, "0 + 5");
  refuse({.step = 2, .admit = {Spec(3, 250, 50, 8)}}, "250 + 50");
  SequenceSpec stranger = Spec(3, 10, 5, 8);
  stranger.prompt[4] = 150;
  refuse({.step = 2, .admit = {stranger}}, "token 150");
  SequenceSpec fork = Spec(2, 10, 5, 8);
  fork.id = 3;
  fork.fork_of = 1;
  refuse({.step = 2, .admit = {fork}}, "forks sequence 3 from 1");
  fork.fork_of = 2;
  refuse({.step = 2, .admit = {fork}, .prefill = {{{3}, 0, 3}}},
         "does not follow");
  refuse({.step = 2, .admit = {fork}, .decode = {3}}, "before its prefill");
  fork.prompt[0] ^= 1;
  refuse({.step = 2, .admit = {fork}}, "forks sequence 3 from 2");
  SequenceSpec biased = Spec(3, 10, 5, 8);
  biased.logit_bias = {{150, 1}};
  refuse({.step = 2, .admit = {biased}}, "token 150");
  biased.logit_bias.assign(kMaxLogitBiases + 1, {3, 1});
  refuse({.step = 2, .admit = {biased}}, "1025 biases");
  SequenceSpec stops = Spec(3, 10, 5, 8);
  stops.stop_tokens = {-1};
  refuse({.step = 2, .admit = {stops}}, "token -1");
  stops.stop_tokens.assign(kMaxStopTokens + 1, 3);
  refuse({.step = 2, .admit = {stops}}, "33 stop tokens");
  SequenceSpec logprobs = Spec(3, 10, 5, 8);
  logprobs.top_logprobs = kMostTopLogprobs + 1;
  refuse({.step = 2, .admit = {logprobs}}, "21 logprobs");
}

TEST(ShardRunner, RefusesPoolsAndSplitsThatCannotBe) {
  SteadyClock clock;
  ShardOptions options;
  options.config = TinyConfig();
  options.model.dummy = true;
  const auto create = [&] {
    return ShardRunner::Create(options, std::make_unique<SoloCommunicator>(),
                               &clock, nullptr)
        .status();
  };
  options.kv_pool_bytes = 1000;
  EXPECT_THAT(create().message(), HasSubstr("smallest sequence"));
  options.kv_pool_bytes = 0;
  options.memory_share = 1.5;
  EXPECT_THAT(create().message(), HasSubstr("1.5"));
  options.memory_share = 0.5;
  options.model.dtype = "int4";
  EXPECT_THAT(create().message(), HasSubstr("int4"));
  options.model.dtype = "";
  options.config.qkv.kv_heads = 2;
  EXPECT_THAT(create().message(), HasSubstr("2 KV heads for 6 query heads"));
  options.config = TinyConfig();
  options.size = 7;
  EXPECT_EQ(create().code(), absl::StatusCode::kInvalidArgument);
  options.size = 1;
  options.config.stop_tokens.assign(kMaxStopTokens + 1, 2);
  EXPECT_THAT(create().message(), HasSubstr("33 stop tokens"));
}

TEST(DecodeSlotClass, IsAPowerOfTwoOrAsLongAsASequenceCanBe) {
  EXPECT_EQ(DecodeSlotClass(1, 2048), 256);
  EXPECT_EQ(DecodeSlotClass(256, 2048), 256);
  EXPECT_EQ(DecodeSlotClass(257, 2048), 512);
  EXPECT_EQ(DecodeSlotClass(2048, 2048), 2048);
  EXPECT_EQ(DecodeSlotClass(16385, 40000), 32768);
  EXPECT_EQ(DecodeSlotClass(32769, 40000), 40000);
  EXPECT_EQ(DecodeSlotClass(40000, 40001), 40032);
  EXPECT_EQ(DecodeSlotClass(5, 60), 64);
}

}  // namespace
}  // namespace h2o
