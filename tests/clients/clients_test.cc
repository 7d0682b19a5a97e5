// The command line's parts: input lines, results, traces, .npy files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/quantile.h"
#include "clients/answer_file.h"
#include "clients/answers.h"
#include "clients/bench_floor.h"
#include "clients/bench_report.h"
#include "clients/input.h"
#include "clients/npy_file.h"
#include "clients/output.h"
#include "clients/trace.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Path(const char* name) { return ::testing::TempDir() + "/" + name; }
std::string WriteFile(const char* name, const std::string& text) {
  std::ofstream(Path(name)) << text;
  return Path(name);
}
std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(ParseTokenList, TakesSpacesAndCommas) {
  EXPECT_THAT(*ParseTokenList(" 2 5,9\n7 "), ElementsAre(2, 5, 9, 7));
  EXPECT_TRUE(ParseTokenList("")->empty());
  EXPECT_THAT(ParseTokenList("2 x 3").status().message(), HasSubstr("'x'"));
  EXPECT_FALSE(ParseTokenList("99999999999").ok());
}

TEST(ReadInputLines, TakesWhatLinesSayOverDefaults) {
  const std::string path = WriteFile(
      "good.jsonl",
      R"({"prompt": "hi", "max_tokens": 7, "stop": "x", "seed": 18446744073709551615}

{"tokens": [2, 3], "kv_policy": "h2o", "kv_budget": "25%", "temperature": 0.5,
)");
  EXPECT_THAT(ReadInputLines(path, {}).status().message(),
              HasSubstr("good.jsonl:3: "));
  WriteFile(
      "good.jsonl",
      R"({"prompt": "hi", "max_tokens": 7, "stop": "x", "seed": 18446744073709551615}

{"tokens": [2, 3], "kv_policy": "h2o", "kv_budget": "25%", "temperature": 0.5}
{"tokens": [4], "kv_budget": 9, "ignore_eos": true, "stop": ["a", "b"]}
)");
  Request defaults;
  defaults.max_tokens = 50;
  defaults.kv_policy = KvPolicyRequest{KvPolicyName::kSink, 40};
  std::vector<Request> requests;
  const std::vector<Prompt> prompts = ReadInputLines(path, defaults).value();
  for (const Prompt& prompt : prompts) {
    EXPECT_EQ(prompt.others, "");
    requests.push_back(prompt.request);
  }
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(prompts[1].place, path + ":3");
  EXPECT_TRUE(requests[0].has_text);
  EXPECT_EQ(requests[0].max_tokens, 7);
  EXPECT_EQ(requests[0].sampling.seed, ~0ull);
  EXPECT_EQ(requests[0].kv_policy->budget_tokens, 40);
  EXPECT_THAT(requests[1].tokens, ElementsAre(2, 3));
  EXPECT_EQ(requests[1].max_tokens, 50);
  EXPECT_EQ(requests[1].kv_policy->name, KvPolicyName::kH2o);
  EXPECT_EQ(requests[1].kv_policy->budget_percent, 25);
  EXPECT_FALSE(requests[1].kv_policy->budget_tokens.has_value());
  EXPECT_EQ(requests[2].kv_policy->name, KvPolicyName::kSink);
  EXPECT_EQ(requests[2].kv_policy->budget_tokens, 9);
  EXPECT_THAT(requests[2].stop, ElementsAre("a", "b"));
}

TEST(ReadInputLines, CarriesOtherKeys) {
  const std::string path = WriteFile(
      "others.jsonl",
      R"({"id": "a-7", "prompt": "hi", "meta": {"n": [1, 2.5, null]}})");
  EXPECT_EQ(ReadInputLines(path, {}).value()[0].others,
            R"({"id":"a-7","meta":{"n":[1,2.5,null]}})");
}

TEST(ReadInputLines, NamesTheLineAndTheValue) {
  const auto expect = [](const std::string& line, const char* what) {
    const std::string path =
        WriteFile("bad.jsonl", "{\"prompt\": \"fine\"}\n" + line + "\n");
    const absl::Status status = ReadInputLines(path, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(status.message(), HasSubstr("bad.jsonl:2: "));
    EXPECT_THAT(status.message(), HasSubstr(what));
  };
  expect("nonsense", "JSON object");
  expect("[1]", "object");
  expect("{}", "either");
  expect(R"({"prompt": "a", "tokens": [1]})", "either");
  expect(R"({"prompt": 5})", "5");
  expect(R"({"tokens": 5})", "5");
  expect(R"({"tokens": [1, "x"]})", "\"x\"");
  expect(R"({"tokens": [99999999999]})", "99999999999");
  expect(R"({"prompt": "a", "max_token": 5})", "did you mean max_tokens?");
  expect(R"({"prompt": "a", "usage": 5})", "call it something else");
  expect(R"({"prompt": "a", "max_tokens": 0})", "0");
  expect(R"({"prompt": "a", "max_tokens": 2.5})", "2.5");
  expect(R"({"prompt": "a", "kv_policy": "best"})", "best");
  expect(R"({"prompt": "a", "kv_policy": "h2o", "kv_budget": 0})", "0");
  expect(R"({"prompt": "a", "kv_policy": "h2o", "kv_budget": "101%"})", "101");
  expect(R"({"prompt": "a", "temperature": -1})", "-1");
  expect(R"({"prompt": "a", "top_p": 1.5})", "1.5");
  expect(R"({"prompt": "a", "top_k": -3})", "-3");
  expect(R"({"prompt": "a", "seed": -3})", "-3");
  expect(R"({"prompt": "a", "stop": [""]})", "stop");
  expect(R"({"prompt": "a", "stop": 5})", "5");
  expect(R"({"prompt": "a", "ignore_eos": 1})", "1");
  EXPECT_EQ(ReadInputLines("/no/such/file", {}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(ReadInputLines(WriteFile("empty.jsonl", "\n"), {}).ok());
}

TEST(TraceLine, IsTheContracts) {
  HeadTrace trace;
  trace.layer = 1;
  trace.head = 4;
  trace.kept = {0, 3};
  EXPECT_EQ(TraceLine(2, trace),
            "{\"seq\":2,\"layer\":1,\"head\":4,\"kept\":[0,3]}\n");
  trace.pos = 200;
  EXPECT_EQ(
      TraceLine(2, trace),
      "{\"seq\":2,\"layer\":1,\"head\":4,\"pos\":200,\"evicted\":null}\n");
  trace.evicted = 180;
  EXPECT_EQ(TraceLine(2, trace),
            "{\"seq\":2,\"layer\":1,\"head\":4,\"pos\":200,\"evicted\":180}\n");
}

TEST(TraceFile, SaysWhatItCannotWrite) {
  EXPECT_THAT(TraceFile::Create("/no/such/folder/t").status().message(),
              HasSubstr("/no/such/folder/t"));
  TraceFile full = TraceFile::Create("/dev/full").value();
  full.Write(0, std::vector<HeadTrace>(1));
  EXPECT_EQ(full.Close().code(), absl::StatusCode::kDataLoss);
}

TEST(NpyFile, HasNumpysLayout) {
  NpyFile file = NpyFile::Create(Path("a.npy"), 2, 3).value();
  file.Append({1, 2, 3});
  file.Append({4, 5, 6});
  ASSERT_TRUE(file.Close().ok());
  const std::string bytes = ReadFile(Path("a.npy"));
  ASSERT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const size_t header = static_cast<unsigned char>(bytes[8]) + 10;
  EXPECT_EQ(header % 64, 0u);
  EXPECT_THAT(bytes, HasSubstr("'shape': (2, 3)"));
  ASSERT_EQ(bytes.size(), header + 24);
  float last;
  std::memcpy(&last, bytes.data() + header + 20, 4);
  EXPECT_EQ(last, 6);
}

TEST(PolicyText, SaysWhatAShareCameTo) {
  KvPolicyRequest h2o = {.name = KvPolicyName::kH2o};
  EXPECT_EQ(PolicyText({}, 6), "full");
  EXPECT_EQ(PolicyText(h2o, 6),
            "h2o, 32 slots: 20 % of 6 tokens, at least one page");
  EXPECT_EQ(PolicyText(h2o, 1024), "h2o, 204 slots: 20 % of 1024 tokens");
  EXPECT_EQ(PolicyText(h2o, 160), "h2o, 32 slots: 20 % of 160 tokens");
  h2o.budget_percent = 12.5;
  EXPECT_EQ(PolicyText(h2o, 400), "h2o, 50 slots: 12.5 % of 400 tokens");
  h2o = {.name = KvPolicyName::kH2o, .budget_tokens = 40};
  EXPECT_EQ(PolicyText(h2o, 6), "h2o, 40 slots");
}

// ---- answers ----

StreamEvent Answer(std::vector<int32_t> tokens, bool done) {
  StreamEvent event;
  event.tokens = std::move(tokens);
  event.done = done;
  if (done) event.finish = FinishReason::kLength;
  return event;
}

// Answers prompts through --output and returns what is in the file.
class Batches : public ::testing::Test {
 protected:
  Batches() : prompts_(3), path_(Path("out.jsonl")) {
    std::remove(path_.c_str());
    for (int i = 0; i < 3; ++i) {
      prompts_[i].others = "{\"id\":" + std::to_string(i) + "}";
    }
  }
  std::unique_ptr<Answers> Open(bool resume) {
    return Answers::Create({.output = path_, .resume = resume}, prompts_, "x")
        .value();
  }
  static void Answer(Answers* answers, size_t i) {
    answers->Add(i, h2o::Answer({7}, true));
    answers->Close(i, absl::OkStatus());
    answers->Print();
  }
  std::vector<nlohmann::json> Lines() const {
    std::ifstream file(path_);
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(file, line);) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  std::vector<Prompt> prompts_;
  const std::string path_;
};

TEST_F(Batches, AFailedLineHasItsErrorAndEveryLineItsKeys) {
  const auto answers = Open(false);
  Answer(answers.get(), 1);
  answers->Add(0, h2o::Answer({4, 5}, false));
  answers->Close(0, absl::UnavailableError("rank 1 is gone"));
  answers->CloseRest(absl::CancelledError("not asked"));
  answers->Print();
  ASSERT_TRUE(answers->Finished());
  EXPECT_THAT(std::string(answers->Verdict().message()),
              "2 of 3 prompts failed; prompt 0: rank 1 is gone");
  const std::vector<nlohmann::json> lines = Lines();
  ASSERT_EQ(lines.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(lines[i]["index"], i);
    EXPECT_EQ(lines[i]["id"], i);
  }
  EXPECT_EQ(lines[0]["error"]["code"], "UNAVAILABLE");
  EXPECT_EQ(lines[0]["error"]["message"], "rank 1 is gone");
  EXPECT_EQ(lines[0]["finish_reason"], "error");
  EXPECT_EQ(lines[0]["tokens"].size(), 2u);
  EXPECT_FALSE(lines[1].contains("error"));
  EXPECT_EQ(lines[2]["finish_reason"], "cancelled");
}

TEST_F(Batches, ResumeAsksWhatHasNoAnswer) {
  {
    const auto killed = Open(false);
    Answer(killed.get(), 0);
    killed->Close(1, absl::InternalError("a fault"));
    killed->Print();
  }
  std::ofstream(path_, std::ios::app) << "{\"index\":2,\"tok";  // cut off
  {
    const auto killed = Open(true);
    EXPECT_TRUE(killed->Has(0));
    EXPECT_FALSE(killed->Has(1));
    EXPECT_FALSE(killed->Has(2));
    Answer(killed.get(), 1);
  }
  const auto resumed = Open(true);
  EXPECT_TRUE(resumed->Has(1));
  EXPECT_FALSE(resumed->Has(2));
  Answer(resumed.get(), 2);
  ASSERT_TRUE(resumed->Finished());
  EXPECT_TRUE(resumed->Verdict().ok());
  const std::vector<nlohmann::json> lines = Lines();
  ASSERT_EQ(lines.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(lines[i]["index"], i);
    EXPECT_FALSE(lines[i].contains("error"));
  }
}

TEST_F(Batches, ResumeRefusesAFileOfOtherThings) {
  const auto error = [&](const std::string& text) {
    std::ofstream(path_) << text;
    return std::string(AnswerFile::Open(path_, true, 3).status().message());
  };
  EXPECT_THAT(error("{\"index\":0}\nprecious\n"), HasSubstr("out.jsonl:2 "));
  EXPECT_EQ(ReadFile(path_), "{\"index\":0}\nprecious\n");
  EXPECT_THAT(error("{\"index\":3}\n"), HasSubstr("the input has 3 prompts"));
  EXPECT_THAT(error("{\"index\":-1}\n"), HasSubstr("out.jsonl:1 "));
  EXPECT_EQ(error(""), "");
}

TEST_F(Batches, AFullDiskIsTold) {
  const auto answers =
      Answers::Create({.output = "/dev/full"}, prompts_, "x").value();
  for (size_t i = 0; i < 3; ++i) Answer(answers.get(), i);
  EXPECT_THAT(std::string(answers->Verdict().message()),
              HasSubstr("/dev/full: No space left on device"));
}

// 2 layers of 4 * 100 + 2 * 400 parameters, and a head of 1,000.
ModelConfig FloorConfig() {
  ModelConfig config;
  config.num_layers = 2;
  config.family = "opt";
  config.qkv = {1, 1, 10};
  config.position_offset = 2;
  config.hidden_size = config.embed_dim = 10;
  config.ffn_dim = 40;
  config.vocab_size = 100;
  return config;
}

TEST(ComputeFloor, CountsBytesAndOperations) {
  const KvGeometry geometry{2, 1, 10, {{DType::kFloat32}}};
  const BenchFloor memory = ComputeFloor(
      FloorConfig(), geometry, {5, 3, 4, 6, 4, 0, 1e6}, {1e6, 1e30, 1e30});
  // Slots: 5, then 6 of capacity 6; (2*10*4 + 8) * 2 bytes each.
  EXPECT_NEAR(memory.decode_seconds, 2 + 4 * (5 + 6) * 176 / 1e6, 1e-9);
  EXPECT_NEAR(memory.prefill_seconds, 4, 1e-9);
  const BenchFloor compute = ComputeFloor(
      FloorConfig(), geometry, {5, 2, 4, 6, 2, 0, 1}, {1e30, 1e6, 1e6});
  EXPECT_NEAR(compute.decode_seconds, 2 * 2 * (3400 * 2 + 5 * 4 * 10 * 2) / 1e6,
              1e-9);
  // Behind the last attention, 900 parameters, goes one row, as to the head.
  EXPECT_NEAR(compute.prefill_seconds,
              4 * (2 * 1500 * 5 + 2 * 1900 + 2 * 25 * 10 * 2) / 1e6, 1e-9);
}

TEST(ComputeFloor, PackedPromptsShareTheReadingOfWeights) {
  const KvGeometry geometry{2, 1, 10, {{DType::kFloat32}}};
  const auto prefill = [&](int sequences_at_once, int64_t packed_tokens) {
    return ComputeFloor(FloorConfig(), geometry,
                        {5, 3, 7, 6, sequences_at_once, packed_tokens, 1e6},
                        {1e6, 1e30, 1e30})
        .prefill_seconds;
  };
  EXPECT_NEAR(prefill(7, 0), 7, 1e-9);
  EXPECT_NEAR(prefill(7, 4), 7, 1e-9);
  EXPECT_NEAR(prefill(7, 19), 3, 1e-9);  // 3, 3 and 1 prompts
  EXPECT_NEAR(prefill(2, 19), 4, 1e-9);  // never more than run at once
}

TEST(AllReduceFloor, IsFiveOfEachPackAndStep) {
  BenchMachine machine;
  machine.activation_bytes = 2;
  const BenchLoad load = {5, 3, 7, 6, 4, 19, 1e6};
  EXPECT_EQ(AllReduceFloor(FloorConfig(), load, machine).seconds(), 0);
  // 10 us and 1 us a row of 20 bytes.
  machine.all_reduces = {{20, 1, 11e-6}, {2000, 1, 110e-6}};
  const BenchFloor floor = AllReduceFloor(FloorConfig(), load, machine);
  // Packs of 3, 3 and 1 prompts of 5 tokens, whose last ones two sums take.
  EXPECT_NEAR(floor.prefill_seconds,
              (3 * (25 + 25 + 15) + 2 * (13 + 13 + 11)) * 1e-6, 1e-9);
  // Twice 3.5 sequences at once, 2 steps each.
  EXPECT_NEAR(floor.decode_seconds, 5 * 2 * 2 * 13.5e-6, 1e-9);
}

TEST(SecondsOf, LiesOnALineBetweenWhatWasMeasured) {
  EXPECT_EQ(SecondsOf({}, 10), 0);
  const std::vector<AllReduceTime> times = {{10, 1, 1}, {20, 1, 2}, {40, 1, 8}};
  EXPECT_EQ(SecondsOf(times, 5), 1);
  EXPECT_EQ(SecondsOf(times, 10), 1);
  EXPECT_EQ(SecondsOf(times, 15), 1.5);
  EXPECT_EQ(SecondsOf(times, 20), 2);
  EXPECT_EQ(SecondsOf(times, 30), 5);
  EXPECT_EQ(SecondsOf(times, 41), 8);
}

TEST(FullBatchSteps, CountsOnlyStepsOfAllSequences) {
  FullBatchSteps steps(2);
  steps.OnToken(1, true, false);   // a's first
  steps.OnToken(2, false, false);  // a alone
  steps.OnToken(10, true, false);  // b's first, then the step of both
  steps.OnToken(10, false, false);
  steps.OnToken(11, false, false);
  EXPECT_TRUE(steps.seconds().empty());
  steps.OnToken(13, false, false);
  steps.OnToken(14, false, false);
  steps.OnToken(16, false, false);
  steps.OnToken(18, false, false);
  steps.OnToken(20, false, true);  // a's last: this step counts no more
  steps.OnToken(21, false, false);
  steps.OnToken(29, false, true);
  EXPECT_EQ(steps.seconds(), (std::vector<double>{3, 4}));
}

TEST(FullBatchSteps, NeverFullHasNone) {
  FullBatchSteps steps(2);
  for (int i = 0; i < 4; ++i) steps.OnToken(i, i % 2 == 0, i % 2 == 1);
  EXPECT_TRUE(steps.seconds().empty());
}

TEST(Quantile, OfFewValues) {
  EXPECT_EQ(Quantile({}, 0.5), 0);
  EXPECT_EQ(Quantile({3}, 0.99), 3);
  EXPECT_EQ(Quantile({4, 1, 3, 2}, 0), 1);
  EXPECT_EQ(Quantile({4, 1, 3, 2}, 1), 4);
}

}  // namespace
}  // namespace h2o
