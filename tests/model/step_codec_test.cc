// Structs as bytes and back, and bytes that hold no struct.
#include "model/step_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <utility>

#include "base/byte_codec.h"
#include "model/step_check.h"
#include "model/step_fields.h"
#include "tests/model/loaded_rank.h"
#include "tests/model/sample_steps.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

RankInfo SampleRank() {
  RankInfo info = LoadedRank(SampleConfig(), 11);
  info.packed_tokens = 12;
  info.memory = {.weights = 13, .looked_up = 7, .workspace = 14, .kv_pool = 15};
  info.sums = {
      {16, {0, 1, 2, std::numeric_limits<float>::infinity()}},
      {17, {4, 5, 6, 7}},
  };
  return info;
}

TEST(StepCodec, StructsComeBackAsTheyWere) {
  const ModelConfig config = SampleConfig();
  EXPECT_EQ(DecodePlan(Encode(SamplePlan()), config).value(), SamplePlan());
  EXPECT_EQ(DecodeResult(Encode(SampleResult()), config).value(),
            SampleResult());
  EXPECT_EQ(DecodeRankInfo(Encode(SampleRank()), config).value(), SampleRank());
  EXPECT_EQ(DecodeModelConfig(Encode(config)).value(), config);
  const ModelSpec spec = {.model = "opt-125m",
                          .dummy = true,
                          .dummy_seed = 9,
                          .dtype = "bf16",
                          .kv_dtype = "fp16",
                          .weights = "int4",
                          .weight_group = 64,
                          .fp8_activations = true};
  EXPECT_EQ(DecodeModelSpec(Encode(spec)).value(), spec);
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The seeds of tests/fuzz/step_codec_fuzz.cc are structs in today's layout: a
// letter that names the struct, and its bytes.  After a change of the layout,
// H2O_WRITE_SEEDS=1 step_codec_test makes them anew.
TEST(StepCodec, FuzzSeedsAreOfThisLayout) {
  StepPlan first_plan;
  first_plan.step = 1;
  StepResult first_result;
  first_result.step = 1;
  RankInfo without_sums = SampleRank();
  without_sums.sums.clear();
  const ModelSpec spec = {.model = "opt-125m", .dtype = "bf16"};
  const std::pair<const char*, std::string> seeds[] = {
      {"plan", "p" + Encode(SamplePlan())},
      {"plan_empty", "p" + Encode(first_plan)},
      {"result", "r" + Encode(SampleResult())},
      {"result_empty", "r" + Encode(first_result)},
      {"info", "i" + Encode(without_sums)},
      {"info_sums", "i" + Encode(SampleRank())},
      {"config", "c" + Encode(SampleConfig())},
      {"spec", "s" + Encode(spec)},
  };
  for (const auto& [name, bytes] : seeds) {
    const std::string path =
        std::string("tests/fuzz/corpus/step_codec/") + name;
    if (std::getenv("H2O_WRITE_SEEDS") != nullptr) {
      std::ofstream(path, std::ios::binary) << bytes;
    }
    EXPECT_EQ(ReadAll(path), bytes) << path;
  }
}

TEST(StepCodec, EmptyVectorsComeBackEmpty) {
  StepPlan plan;
  plan.step = 1;
  EXPECT_EQ(DecodePlan(Encode(plan), SampleConfig()).value(), plan);
  StepResult result;
  result.step = 1;
  EXPECT_EQ(DecodeResult(Encode(result), SampleConfig()).value(), result);
}

TEST(StepCodec, GarbledPlansAreRefused) {
  const std::pair<const char*, std::function<void(StepPlan*)>> bad[] = {
      {"step is 0", [](auto* p) { p->step = 0; }},
      {"retire names sequence 3 twice",
       [](auto* p) {
         p->retire = {3, 3};
       }},
      {"decode names sequence 1 twice",
       [](auto* p) {
         p->decode = {1, 2, 1};
       }},
      {"admit names sequence 7 twice",
       [](auto* p) { p->admit.push_back(p->admit[0]); }},
      {"prompt is empty", [](auto* p) { p->admit[0].prompt.clear(); }},
      {"sequence 7: token id is 100",
       [](auto* p) { p->admit[0].prompt.push_back(100); }},
      {"token id is -1", [](auto* p) { p->admit[0].forced[0] = -1; }},
      {"max_tokens is 0", [](auto* p) { p->admit[0].max_tokens = 0; }},
      {"need 2147483649 positions",
       [](auto* p) { p->admit[0].max_tokens = 2147483647; }},
      {"forced and generated have 3 tokens",
       [](auto* p) { p->admit[0].forced.push_back(5); }},
      {"forced and generated have 3 tokens",
       [](auto* p) { p->admit[0].generated = 1; }},
      {"generated is 3", [](auto* p) { p->admit[0].generated = 3; }},
      {"temperature nan",
       [](auto* p) { p->admit[0].sampling.temperature = std::nanf(""); }},
      {"top_k -1", [](auto* p) { p->admit[0].sampling.top_k = -1; }},
      {"top_p 1.5", [](auto* p) { p->admit[0].sampling.top_p = 1.5f; }},
      {"policy is 4",
       [](auto* p) { p->admit[0].policy.name = static_cast<KvPolicyName>(4); }},
      {"slots has 5 entries",
       [](auto* p) { p->admit[0].policy.slots.pop_back(); }},
      {"slots has 0 entries",
       [](auto* p) { p->admit[0].policy.slots.clear(); }},
      {"recent is 0", [](auto* p) { p->admit[0].policy.slots[1].recent = 0; }},
      {"heavy is -2", [](auto* p) { p->admit[0].policy.slots[0].heavy = -2; }},
      {"sinks is 2147483647",
       [](auto* p) { p->admit[0].policy.slots[0].sinks = 2147483647; }},
      {"score_rule is 9",
       [](auto* p) {
         p->admit[0].policy.slots[0].score_rule = static_cast<ScoreRule>(9);
       }},
      {"fork_of is 3", [](auto* p) { p->admit[0].fork_of = 3; }},
      {"fork_of is 7", [](auto* p) { p->admit[0].fork_of = 7; }},
      {"sequence 8: fork_of is 7",
       [](auto* p) {
         SequenceSpec& fork = p->admit.emplace_back(p->admit[0]);
         fork.id = 8;
         fork.fork_of = 7;
         fork.prompt[0] = 3;
       }},
      {"sequence 9: fork_of is 8",
       [](auto* p) {
         for (uint64_t id : {8, 9}) {
           SequenceSpec& fork = p->admit.emplace_back(p->admit[0]);
           fork.id = id;
           fork.fork_of = id - 1;
         }
       }},
      {"layers [1, 3)",
       [](auto* p) {
         p->prefill[0].layer_begin = 1;
         p->prefill[0].layer_end = 3;
       }},
      {"layers [2, 2)", [](auto* p) { p->prefill[0].layer_begin = 2; }},
      {"prefill of no sequence",
       [](auto* p) { p->prefill[0].sequence_ids.clear(); }},
      {"prefill names sequence 7 twice",
       [](auto* p) {
         p->prefill[0].sequence_ids = {7, 7};
       }},
  };
  for (const auto& [says, spoil] : bad) {
    StepPlan plan = SamplePlan();
    spoil(&plan);
    const absl::Status status =
        DecodePlan(Encode(plan), SampleConfig()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
}

TEST(StepCodec, GarbledResultsAreRefused) {
  const std::pair<const char*, std::function<void(StepResult*)>> bad[] = {
      {"step is 0", [](auto* r) { r->step = 0; }},
      {"token is 100", [](auto* r) { r->tokens[0].token = 100; }},
      {"finish is 4",
       [](auto* r) { r->tokens[0].finish = static_cast<FinishReason>(4); }},
      {"layer is 2", [](auto* r) { r->trace[0].layer = 2; }},
      {"head is -1", [](auto* r) { r->trace[0].head = -1; }},
      {"pos is 64", [](auto* r) { r->trace[0].pos = 64; }},
      {"evicted is -2", [](auto* r) { r->trace[0].evicted = -2; }},
      {"kept is 64", [](auto* r) { r->trace[0].kept.push_back(64); }},
      {"rows has 201", [](auto* r) { r->logits[0].rows.push_back(0); }},
      {"first_position is 64",
       [](auto* r) { r->logits[0].first_position = 64; }},
      {"first_position of logprobs is 65",
       [](auto* r) { r->logprobs[0].first_position = 65; }},
      {"token of logprobs is -1",
       [](auto* r) { r->logprobs[0].rows[0].chosen.token = -1; }},
      {"token of logprobs is 100",
       [](auto* r) { r->logprobs[0].rows[0].top[1].token = 100; }},
      {"likeliest tokens is 21",
       [](auto* r) { r->logprobs[0].rows[0].top.resize(21); }},
      {"decode_seconds is nan",
       [](auto* r) { r->decode_seconds = std::nan(""); }},
      {"sum_wait_seconds is -1", [](auto* r) { r->sum_wait_seconds = -1; }},
      {"prefill_seconds is -1", [](auto* r) { r->prefill_seconds = -1; }},
      {"idle_seconds is inf",
       [](auto* r) {
         r->idle_seconds = std::numeric_limits<double>::infinity();
       }},
  };
  for (const auto& [says, spoil] : bad) {
    StepResult result = SampleResult();
    spoil(&result);
    const absl::Status status =
        DecodeResult(Encode(result), SampleConfig()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
}

TEST(StepCodec, GarbledRanksAndModelsAreRefused) {
  const std::pair<const char*, std::function<void(RankInfo*)>> bad[] = {
      {"num_slabs is 0", [](auto* i) { i->num_slabs = 0; }},
      {"packed_tokens is -1", [](auto* i) { i->packed_tokens = -1; }},
      {"workspace is -1", [](auto* i) { i->memory.workspace = -1; }},
      {"kv_dtype is 3",
       [](auto* i) { i->geometry.formats[0].dtype = static_cast<DType>(3); }},
      {"head_dim 9", [](auto* i) { i->geometry.head_dim = 9; }},
      {"KV formats of 2 heads",
       [](auto* i) { i->geometry.formats = std::vector<KvFormat>(2); }},
      {"a sum took nan s",
       [](auto* i) { i->sums[1].seconds[2] = std::nanf(""); }},
      {"norm_epsilon is 0", [](auto* i) { i->config.norm_epsilon = 0; }},
      {"num_layers is 0", [](auto* i) { i->config.num_layers = 0; }},
      {"layout of codes is 4",
       [](auto* i) {
         i->config.quantization.layout = static_cast<CodeLayout>(4);
       }},
      {"format of codes is 6",
       [](auto* i) {
         i->config.quantization.coding.format = static_cast<WeightFormat>(6);
       }},
      {"weights are float32 in layout 1",
       [](auto* i) { i->config.quantization.layout = CodeLayout::kPacked; }},
      {"groups are of 32",
       [](auto* i) { i->config.quantization.coding.group = 32; }},
      {"max_positions is 65537",
       [](auto* i) { i->config.max_positions = 65537; }},
      {"activation is 2",
       [](auto* i) { i->config.activation = static_cast<Activation>(2); }},
  };
  for (const auto& [says, spoil] : bad) {
    RankInfo info = SampleRank();
    spoil(&info);
    const absl::Status status =
        DecodeRankInfo(Encode(info), SampleConfig()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
  for (const ModelSpec& bad :
       {ModelSpec{.weights = "int3"}, ModelSpec{.weight_group = 32}}) {
    EXPECT_EQ(DecodeModelSpec(Encode(bad)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(DecodeModelSpec(Encode(ModelSpec{.dtype = "int3"})).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(StepCodec, AnotherModelIsNamedWithBothValues) {
  const ModelConfig ours = SampleConfig();
  ModelConfig theirs = ours;
  theirs.name = "elsewhere";
  EXPECT_TRUE(CheckSameModel(ours, theirs).ok());
  theirs.ffn_dim = 50;
  const absl::Status status = CheckSameModel(ours, theirs);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("ffn_dim is 50"), HasSubstr("32")));
  theirs.ffn_dim = ours.ffn_dim;
  theirs.quantization = {CodeLayout::kGptq, {WeightFormat::kInt4, 64}};
  EXPECT_THAT(std::string(CheckSameModel(ours, theirs).message()),
              AllOf(HasSubstr("quantization is int4 in groups of 64"),
                    HasSubstr("none")));
}

// ---- Bytes from strangers

TEST(StepCodec, TruncatedAndLongerBytesAreDataLoss) {
  const auto code = [](const std::string& bytes) {
    return DecodePlan(bytes, SampleConfig()).status().code();
  };
  const std::string whole = Encode(SamplePlan());
  EXPECT_EQ(code(whole), absl::StatusCode::kOk);
  EXPECT_EQ(code(whole + "x"), absl::StatusCode::kDataLoss);
  for (size_t n = 0; n < whole.size(); ++n) {
    ASSERT_EQ(code(whole.substr(0, n)), absl::StatusCode::kDataLoss) << n;
  }
}

TEST(StepCodec, CountsTakeNoMemoryThatTheirBytesDoNotFill) {
  std::string bytes = Encode(SamplePlan());
  const uint64_t many[] = {uint64_t{1} << 61, 1 << 30, 1000};
  for (uint64_t count : many) {
    std::memcpy(bytes.data() + sizeof(uint64_t), &count, sizeof(count));
    EXPECT_EQ(DecodePlan(bytes, SampleConfig()).status().code(),
              absl::StatusCode::kDataLoss);
  }
}

// Whatever bytes come: a plan that can be run, or a Status.
TEST(StepCodec, FlippedBytesNeverCrash) {
  const std::string bytes = Encode(SamplePlan());
  std::mt19937 random(1);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string spoilt = bytes;
    for (int flips = 1 + i % 4; flips > 0; --flips) {
      spoilt[random() % spoilt.size()] = static_cast<char>(random());
    }
    const absl::StatusOr<StepPlan> plan = DecodePlan(spoilt, SampleConfig());
    if (!plan.ok()) continue;
    ++accepted;
    EXPECT_EQ(Encode(*plan), spoilt);
  }
  EXPECT_GT(accepted, 0);
}

// ---- Layouts

struct Old {
  int32_t a;
  bool b;
  std::vector<float> c;
};
auto Fields(Is<Old> auto& s) {
  auto& [a, b, c] = s;
  return std::tie(a, b, c);
}
struct New {
  int32_t a;
  bool b;
  std::vector<Old> c;
  std::array<uint64_t, 3> d;
};
auto Fields(Is<New> auto& s) {
  auto& [a, b, c, d] = s;
  return std::tie(a, b, c, d);
}

TEST(StepCodec, LayoutsNameEveryField) {
  EXPECT_EQ(LayoutOf<Old>(), "{int32 bool8 [float32] }");
  EXPECT_EQ(LayoutOf<New>(),
            "{int32 bool8 [{int32 bool8 [float32] }] 3xuint64 }");
  EXPECT_THAT(StepLayout(), HasSubstr(LayoutOf<StepPlan>()));
}

TEST(StepCodec, BoolsAreOneOrZero) {
  bool flag = true;
  for (const char byte : {0, 1, 2}) {
    ByteReader reader(std::string_view(&byte, 1));
    reader.Get(flag);
    EXPECT_EQ(reader.Whole(), byte < 2);
    EXPECT_EQ(flag, byte == 1);
  }
}

}  // namespace
}  // namespace h2o
