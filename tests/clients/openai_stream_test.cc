// Tests bodies for OpenAI's API and the chunks of its streams, as `call --http`
// writes and reads them.
#include "clients/openai_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

nlohmann::json BodyOf(const Request& request) {
  return nlohmann::json::parse(OpenAiBody(request).value());
}

TEST(OpenAiBodyTest, SaysWhatDefaultsOfHttpDoNot) {
  const nlohmann::json body = BodyOf({.tokens = {2, 5}});
  EXPECT_EQ(body["prompt"], nlohmann::json({2, 5}));
  EXPECT_EQ(body["temperature"], 0);
  EXPECT_EQ(body["max_tokens"], 128);
  EXPECT_FALSE(body.contains("seed"));
  EXPECT_FALSE(body.contains("logprobs"));
  EXPECT_FALSE(body.contains("kv_policy"));
}

TEST(OpenAiBodyTest, TurnsSeedsAndPriorities) {
  Request request = {.has_text = true, .text = "a", .has_seed = true};
  request.sampling.seed = std::numeric_limits<uint64_t>::max();
  request.priority = std::numeric_limits<int32_t>::min();
  EXPECT_EQ(BodyOf(request)["seed"], -1);
  EXPECT_EQ(BodyOf(request)["priority"], std::numeric_limits<int32_t>::max());
  request.priority = 3;
  EXPECT_EQ(BodyOf(request)["priority"], -3);
}

TEST(OpenAiBodyTest, NamesThePolicy) {
  Request request = {.has_text = true};
  request.kv_policy = {.name = KvPolicyName::kH2o, .budget_percent = 12.5};
  EXPECT_EQ(BodyOf(request)["kv_policy"], "h2o");
  EXPECT_EQ(BodyOf(request)["kv_budget"], "12.5%");
  request.kv_policy = {.name = KvPolicyName::kSink, .budget_tokens = 40};
  EXPECT_EQ(BodyOf(request)["kv_budget"], 40);
  request.kv_policy->flexgen_prefill = true;
  EXPECT_EQ(OpenAiBody(request).status().code(),
            absl::StatusCode::kInvalidArgument);
}

class OpenAiStreamTest : public ::testing::Test {
 protected:
  // In pieces of one byte.
  absl::Status Add(const std::string& text) {
    for (const char c : text) {
      if (absl::Status status = stream_.Add({&c, 1}); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  std::vector<StreamEvent> events_;
  OpenAiStream stream_{1,
                       [this](const StreamEvent& e) { events_.push_back(e); }};
};

TEST_F(OpenAiStreamTest, GivesTokensThenTheEnd) {
  ASSERT_TRUE(
      Add(": keep-alive\n\n"
          R"(data: {"choices":[{"text":"a","token_ids":[5],"seed":-1,)"
          R"("logprobs":{"tokens":["token_id:5"],"token_logprobs":[-2.5],)"
          R"("top_logprobs":[{"token_id:7":-1,"token_id:5":-2.5}]},)"
          R"("prompt_logprobs":[null,{"9":{"logprob":-3,"rank":null},)"
          R"("4":{"logprob":-1,"rank":1}}],"finish_reason":null}]})"
          "\r\n\r\n"
          R"(data: {"choices":[{"text":"","token_ids":[6],"seed":-1,)"
          R"("finish_reason":"stop","stop_reason":6}]})"
          "\n\n")
          .ok());
  EXPECT_TRUE(stream_.is_finished());
  EXPECT_FALSE(stream_.is_complete());
  ASSERT_TRUE(Add(R"(data: {"choices":[],"usage":{"prompt_tokens":2,)"
                  R"("completion_tokens":2},"metrics":{"queue_time_ms":1000,)"
                  R"("time_to_first_token_ms":3000,"generation_time_ms":5000}})"
                  "\n\ndata: [DONE]\n\n")
                  .ok());
  ASSERT_EQ(events_.size(), 3);
  EXPECT_EQ(events_[0].text, "a");
  EXPECT_THAT(events_[0].tokens, ElementsAre(5));
  EXPECT_EQ(events_[0].seed, std::numeric_limits<uint64_t>::max());
  EXPECT_THAT(events_[0].logprobs, ElementsAre(Logprobs{{5, -2.5}, {{7, -1}}}));
  EXPECT_THAT(events_[0].prompt_logprobs,
              ElementsAre(Logprobs(), Logprobs{{9, -3}, {{4, -1}}}));
  EXPECT_FALSE(events_[1].done);
  EXPECT_TRUE(events_[2].done);
  EXPECT_EQ(events_[2].finish, FinishReason::kStop);
  EXPECT_EQ(events_[2].stop_token, 6);
  EXPECT_EQ(events_[2].usage.completion_tokens, 2);
  EXPECT_EQ(events_[2].usage.prefill_seconds, 2);
  EXPECT_EQ(events_[2].usage.decode_seconds, 3);
  EXPECT_TRUE(stream_.is_complete());
}

TEST_F(OpenAiStreamTest, GivesTheErrorThatTheServerSays) {
  const absl::Status status =
      Add(R"(data: {"error":{"message":"lost","code":"server_is_unavailable"}})"
          "\n\n");
  EXPECT_EQ(status, absl::UnavailableError("lost"));
}

TEST_F(OpenAiStreamTest, RefusesWhatIsNoStream) {
  for (const char* bad :
       {"<html>\n", "data: 1\n", "data: {\n", "data: {}\n",
        "data: {\"choices\":[{}]}\n", "data: {\"choices\":[]}\n",
        "data: {\"choices\":3}\n",
        "data: {\"choices\":[{\"text\":1,\"token_ids\":[],\"seed\":1}]}\n"}) {
    OpenAiStream stream(0, [](const StreamEvent&) {});
    const absl::Status status = stream.Add(bad);
    EXPECT_TRUE(absl::IsDataLoss(status)) << bad << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("OpenAI's API"));
  }
}

}  // namespace
}  // namespace h2o
