#include "proto/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>

#include "tests/model/small_config.h"

namespace h2o {
namespace {

namespace wire = h2oserve::worker;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Every number another, so that one taken for another shows.
ModelConfig OddConfig() {
  ModelConfig config = SmallConfig();
  config.qkv = {3, 3, 8};
  config.hidden_size = config.embed_dim = 24;
  config.vocab_size = 100;
  config.max_positions = 64;
  config.activation = Activation::kGelu;
  config.bias = false;
  return config;
}

StepPlan FullPlan() {
  SequenceSpec sequence;
  sequence.id = 7;
  sequence.prompt = {2, 99, 0};
  sequence.max_tokens = 3;
  sequence.ignore_eos = true;
  sequence.sampling = {.temperature = 0.5f,
                       .top_k = 4,
                       .top_p = 0.9f,
                       .seed = 0xffffffffffffffffu};
  sequence.policy.name = KvPolicyName::kH2o;
  for (int head = 0; head < 6; ++head) {
    sequence.policy.slots.push_back({.sinks = 0,
                                     .heavy = head,
                                     .recent = 2,
                                     .prefill_recent = 1,
                                     .score_rule = ScoreRule::kSum});
  }
  sequence.trace = true;
  sequence.forced = {5, 6};
  sequence.logits = true;
  StepPlan plan;
  plan.step = 12;
  plan.retire = {3, 4};
  plan.admit = {sequence};
  plan.prefill = {{.sequence_ids = {7, 8}, .layer_begin = 0, .layer_end = 2}};
  plan.decode = {1, 2};
  return plan;
}

StepResult FullResult() {
  StepResult result;
  result.step = 12;
  result.checksum = 0xfedcba9876543210u;
  result.tokens = {
      {.sequence_id = 1, .token = 99, .finish = FinishReason::kStop},
      {.sequence_id = 2, .token = 0}};
  result.trace = {
      {.sequence_id = 1, .layer = 1, .head = 2, .pos = -1, .kept = {0, 5}},
      {.sequence_id = 1, .layer = 0, .head = 0, .pos = 9, .evicted = 4}};
  result.logits = {{.sequence_id = 1,
                    .first_position = 3,
                    .rows = std::vector<float>(200, 0.25f)}};
  result.prefill_seconds = 0.5;
  result.decode_seconds = 0.25;
  result.slowest_layer_seconds = 0.125;
  return result;
}

TEST(ConvertTest, PlanComesBackAsItWas) {
  const StepPlan plan = FullPlan();
  wire::StepPlan message;
  ToProto(plan, &message);
  wire::StepPlan received;
  ASSERT_TRUE(received.ParseFromString(message.SerializeAsString()));
  const absl::StatusOr<StepPlan> back = FromProto(received, OddConfig());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->step, 12);
  EXPECT_THAT(back->retire, ElementsAre(3, 4));
  EXPECT_THAT(back->decode, ElementsAre(1, 2));
  ASSERT_EQ(back->prefill.size(), 1);
  EXPECT_THAT(back->prefill[0].sequence_ids, ElementsAre(7, 8));
  EXPECT_EQ(back->prefill[0].layer_end, 2);
  ASSERT_EQ(back->admit.size(), 1);
  const SequenceSpec &a = plan.admit[0], &b = back->admit[0];
  EXPECT_EQ(b.id, a.id);
  EXPECT_EQ(b.prompt, a.prompt);
  EXPECT_EQ(b.max_tokens, a.max_tokens);
  EXPECT_EQ(b.ignore_eos, a.ignore_eos);
  EXPECT_EQ(b.sampling.temperature, a.sampling.temperature);
  EXPECT_EQ(b.sampling.top_k, a.sampling.top_k);
  EXPECT_EQ(b.sampling.top_p, a.sampling.top_p);
  EXPECT_EQ(b.sampling.seed, a.sampling.seed);
  EXPECT_EQ(b.policy.name, a.policy.name);
  EXPECT_EQ(b.policy.slots, a.policy.slots);
  EXPECT_EQ(b.trace, a.trace);
  EXPECT_EQ(b.forced, a.forced);
  EXPECT_EQ(b.logits, a.logits);
}

TEST(ConvertTest, ResultComesBackAsItWas) {
  const StepResult result = FullResult();
  wire::StepResult message;
  ToProto(result, &message);
  wire::StepResult received;
  ASSERT_TRUE(received.ParseFromString(message.SerializeAsString()));
  const absl::StatusOr<StepResult> back = FromProto(received, OddConfig());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->step, result.step);
  EXPECT_EQ(back->checksum, result.checksum);
  ASSERT_EQ(back->tokens.size(), 2);
  EXPECT_EQ(back->tokens[0].token, 99);
  EXPECT_EQ(back->tokens[0].finish, FinishReason::kStop);
  ASSERT_EQ(back->trace.size(), 2);
  EXPECT_THAT(back->trace[0].kept, ElementsAre(0, 5));
  EXPECT_EQ(back->trace[0].pos, -1);
  EXPECT_EQ(back->trace[0].evicted, -1);
  EXPECT_EQ(back->trace[1].evicted, 4);
  ASSERT_EQ(back->logits.size(), 1);
  EXPECT_EQ(back->logits[0].rows, result.logits[0].rows);
  EXPECT_EQ(back->prefill_seconds, 0.5);
  EXPECT_EQ(back->decode_seconds, 0.25);
  EXPECT_EQ(back->slowest_layer_seconds, 0.125);
}

TEST(ConvertTest, ModelsComeBackAsTheyWere) {
  const ModelConfig config = OddConfig();
  wire::ModelConfig message;
  ToProto(config, &message);
  const absl::StatusOr<ModelConfig> back = FromProto(message);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(CheckSameModel(config, *back).ok());

  const ModelSpec spec = {.model = "opt-125m",
                          .dummy = true,
                          .dummy_seed = 9,
                          .dtype = "bf16",
                          .kv_dtype = "fp16"};
  wire::ModelSpec spec_message;
  ToProto(spec, &spec_message);
  const absl::StatusOr<ModelSpec> spec_back = FromProto(spec_message);
  ASSERT_TRUE(spec_back.ok());
  EXPECT_EQ(spec_back->model, "opt-125m");
  EXPECT_TRUE(spec_back->dummy);
  EXPECT_EQ(spec_back->dummy_seed, 9);
  EXPECT_EQ(spec_back->dtype, "bf16");
  EXPECT_EQ(spec_back->kv_dtype, "fp16");
}

TEST(ConvertTest, AnotherModelIsNamedWithBothValues) {
  const ModelConfig ours = OddConfig();
  ModelConfig theirs = ours;
  theirs.name = "elsewhere";
  EXPECT_TRUE(CheckSameModel(ours, theirs).ok());
  theirs.ffn_dim = 50;
  const absl::Status status = CheckSameModel(ours, theirs);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("ffn_dim is 50"), HasSubstr("32")));
}

struct BadPlan {
  const char* says;
  std::function<void(wire::StepPlan*)> spoil;
};

TEST(ConvertTest, GarbledPlansAreRefused) {
  const auto admit = [](wire::StepPlan* p) { return p->mutable_admit(0); };
  const BadPlan bad_plans[] = {
      {"step is 0", [](auto* p) { p->set_step(0); }},
      {"retire names sequence 3 twice", [](auto* p) { p->add_retire(3); }},
      {"decode names sequence 1 twice", [](auto* p) { p->add_decode(1); }},
      {"admit names sequence 7 twice",
       [&](auto* p) { *p->add_admit() = p->admit(0); }},
      {"prompt is empty", [&](auto* p) { admit(p)->clear_prompt(); }},
      {"token id is 100", [&](auto* p) { admit(p)->add_prompt(100); }},
      {"token id is -1", [&](auto* p) { admit(p)->set_forced(0, -1); }},
      {"max_tokens is 0", [&](auto* p) { admit(p)->set_max_tokens(0); }},
      {"need 2147483649 positions",
       [&](auto* p) { admit(p)->set_max_tokens(2147483647); }},
      {"forced has 1 tokens",
       [&](auto* p) { admit(p)->mutable_forced()->RemoveLast(); }},
      {"temperature nan",
       [&](auto* p) { admit(p)->set_temperature(std::nanf("")); }},
      {"top_k -1", [&](auto* p) { admit(p)->set_top_k(-1); }},
      {"top_p 1.5", [&](auto* p) { admit(p)->set_top_p(1.5f); }},
      {"policy is 'none'", [&](auto* p) { admit(p)->set_policy("none"); }},
      {"slots has 5 entries",
       [&](auto* p) { admit(p)->mutable_slots()->RemoveLast(); }},
      {"slots has 0 entries", [&](auto* p) { admit(p)->clear_slots(); }},
      {"recent is 0",
       [&](auto* p) { admit(p)->mutable_slots(1)->set_recent(0); }},
      {"heavy is -2",
       [&](auto* p) { admit(p)->mutable_slots(0)->set_heavy(-2); }},
      {"sinks is 2147483647",
       [&](auto* p) { admit(p)->mutable_slots(0)->set_sinks(2147483647); }},
      {"score_rule is 9",
       [&](auto* p) { admit(p)->mutable_slots(0)->set_score_rule(9); }},
      {"layers [1, 3)",
       [](auto* p) {
         p->mutable_prefill(0)->set_layer_begin(1);
         p->mutable_prefill(0)->set_layer_end(3);
       }},
      {"layers [2, 2)",
       [](auto* p) { p->mutable_prefill(0)->set_layer_begin(2); }},
  };
  for (const BadPlan& bad : bad_plans) {
    wire::StepPlan message;
    ToProto(FullPlan(), &message);
    bad.spoil(&message);
    const absl::Status status = FromProto(message, OddConfig()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.says));
  }
}

TEST(ConvertTest, GarbledResultsAreRefused) {
  const std::pair<const char*, std::function<void(wire::StepResult*)>> bad[] = {
      {"step is 0", [](auto* r) { r->set_step(0); }},
      {"token is 100", [](auto* r) { r->mutable_tokens(0)->set_token(100); }},
      {"finish is 3", [](auto* r) { r->mutable_tokens(0)->set_finish(3); }},
      {"layer is 2", [](auto* r) { r->mutable_trace(0)->set_layer(2); }},
      {"head is -1", [](auto* r) { r->mutable_trace(0)->set_head(-1); }},
      {"pos is 64", [](auto* r) { r->mutable_trace(0)->set_pos(64); }},
      {"evicted is -2", [](auto* r) { r->mutable_trace(0)->set_evicted(-2); }},
      {"kept is 64", [](auto* r) { r->mutable_trace(0)->add_kept(64); }},
      {"rows has 201", [](auto* r) { r->mutable_logits(0)->add_rows(0); }},
      {"decode_seconds is nan",
       [](auto* r) { r->set_decode_seconds(std::nan("")); }},
      {"prefill_seconds is -1", [](auto* r) { r->set_prefill_seconds(-1); }},
  };
  for (const auto& [says, spoil] : bad) {
    wire::StepResult message;
    ToProto(FullResult(), &message);
    spoil(&message);
    const absl::Status status = FromProto(message, OddConfig()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
}

// Whatever bytes come: a plan that can be run, or a Status.
TEST(ConvertTest, FlippedBytesNeverCrash) {
  wire::StepPlan message;
  ToProto(FullPlan(), &message);
  const std::string bytes = message.SerializeAsString();
  std::mt19937 random(1);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string spoilt = bytes;
    for (int flips = 1 + i % 4; flips > 0; --flips) {
      spoilt[random() % spoilt.size()] = static_cast<char>(random());
    }
    wire::StepPlan parsed;
    if (!parsed.ParseFromString(spoilt)) continue;
    const absl::StatusOr<StepPlan> plan = FromProto(parsed, OddConfig());
    if (!plan.ok()) continue;
    ++accepted;
    for (const SequenceSpec& sequence : plan->admit) {
      ASSERT_FALSE(sequence.prompt.empty());
      ASSERT_FALSE(sequence.policy.slots.empty());
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST(ConvertTest, WireIdIsStable) {
  EXPECT_EQ(WireId(), WireId());
  EXPECT_EQ(WireId().size(), 16);
}

}  // namespace
}  // namespace h2o
