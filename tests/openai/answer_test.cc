// Tests the bytes of chunks and the shape of whole answers.
#include "openai/answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"

namespace h2o {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;
using Json = nlohmann::json;

const Tokenizer* Demo() {
  static const Tokenizer* const demo =
      Tokenizer::Load("models/opt-demo", 8192).value().release();
  return demo;
}

class AnswerTest : public ::testing::Test {
 protected:
  void Ask(const std::string& body, OpenAiForm form = OpenAiForm::kCompletion) {
    ask_ = ParseAsk(form, body, {.model_names = {"demo"}}).value();
    answer_ = std::make_unique<OpenAiAnswer>(
        &ask_, OpenAiAnswer::Names{.request_id = "r", .created = 7}, Demo());
  }
  // The objects of a stream's events, without [DONE].
  static std::vector<Json> Objects(const std::string& chunks) {
    std::vector<Json> objects;
    for (const auto& event : absl::StrSplit(chunks, "\n\n")) {
      const std::string text(event);
      if (text.empty() || text == "data: [DONE]") continue;
      EXPECT_THAT(text, StartsWith("data: {"));
      objects.push_back(Json::parse(text.substr(6)));
    }
    return objects;
  }
  static StreamEvent Token(int32_t token, const std::string& text) {
    StreamEvent event;
    event.tokens = {token};
    event.text = text;
    return event;
  }
  static StreamEvent Last(int32_t token, const std::string& text) {
    StreamEvent event = Token(token, text);
    event.done = true;
    event.finish = FinishReason::kStop;
    event.usage = {.prompt_tokens = 4, .completion_tokens = 2};
    event.usage.queue_seconds = 0.5;
    return event;
  }

  OpenAiAsk ask_;
  std::unique_ptr<OpenAiAnswer> answer_;
};

TEST_F(AnswerTest, ACompletionsStream) {
  Ask(R"({"prompt": "a", "stream": true, "seed": -2,
          "stream_options": {"include_usage": true}})");
  const std::string first = answer_->Chunks(0, Token(100, "hi"));
  EXPECT_EQ(first,
            R"(data: {"id":"cmpl-r","object":"text_completion","created":7,)"
            R"("model":"demo","choices":[{"index":0,"text":"hi",)"
            R"("logprobs":null,"finish_reason":null,"seed":-2}],"seed":-2,)"
            R"("usage":null})"
            "\n\n");
  const auto last = Objects(answer_->Chunks(0, Last(101, " you")));
  ASSERT_THAT(last, SizeIs(1));
  EXPECT_EQ(last[0]["choices"][0]["finish_reason"], "stop");
  const std::string end = answer_->End();
  EXPECT_THAT(end, EndsWith("\n\ndata: [DONE]\n\n"));
  const Json usage = Objects(end).at(0);
  EXPECT_EQ(usage["choices"], Json::array());
  EXPECT_EQ(usage["usage"]["total_tokens"], 6);
  EXPECT_EQ(usage["usage"]["kv"]["policy"], "full");
  EXPECT_EQ(usage["metrics"]["queue_time_ms"], 500);
}

TEST_F(AnswerTest, AChatsStreamBeginsWithTheRoleAlone) {
  Ask(R"({"messages": [{"role": "user", "content": "a"}], "stream": true})",
      OpenAiForm::kChat);
  const auto first = Objects(answer_->Chunks(0, Token(100, "hi")));
  ASSERT_THAT(first, SizeIs(2));
  EXPECT_EQ(first[0]["object"], "chat.completion.chunk");
  const Json role = {{"role", "assistant"}, {"content", ""}};
  EXPECT_EQ(first[0]["choices"][0]["delta"], role);
  const Json content = {{"content", "hi"}};
  EXPECT_EQ(first[1]["choices"][0]["delta"], content);
  EXPECT_FALSE(first[1].contains("usage"));
  EXPECT_THAT(Objects(answer_->Chunks(0, Last(101, "x"))), SizeIs(1));
  EXPECT_EQ(answer_->End(), "data: [DONE]\n\n");
}

TEST_F(AnswerTest, UsageInEveryChunkWhereItIsAskedFor) {
  Ask(R"({"prompt": "a", "stream": true, "stream_options":
          {"include_usage": true, "continuous_usage_stats": true}})");
  StreamEvent event = Token(100, "hi");
  event.prompt = {2, 5, 6, 7};
  const Json usage = Objects(answer_->Chunks(0, event)).at(0)["usage"];
  EXPECT_EQ(usage["prompt_tokens"], 4);
  EXPECT_EQ(usage["completion_tokens"], 1);
}

TEST_F(AnswerTest, ATraceTellsWhatHeadsKeepAndEvict) {
  Ask(R"({"prompt": "a", "stream": true, "kv_trace": true})");
  StreamEvent event = Token(100, "hi");
  event.trace = {{.layer = 1, .head = 2, .kept = {0, 3}},
                 {.layer = 1, .head = 2, .pos = 4, .evicted = 3},
                 {.layer = 1, .head = 2, .pos = 5}};
  EXPECT_THAT(
      answer_->Chunks(0, event),
      testing::HasSubstr(R"("kv_trace":[{"layer":1,"head":2,"kept":[0,3]},)"
                         R"({"layer":1,"head":2,"pos":4,"evicted":3},)"
                         R"({"layer":1,"head":2,"pos":5,"evicted":null}])"));
}

TEST_F(AnswerTest, LineEndsOfUnicodeAreEscaped) {
  Ask(R"({"prompt": "a", "stream": true})");
  EXPECT_THAT(answer_->Chunks(0, Token(1,
                                       "a\xe2\x80\xa8"
                                       "b\xc2\x85"
                                       "c\n")),
              HasSubstr(R"("text":"a\u2028b\u0085c\n")"));
}

TEST_F(AnswerTest, AWholeAnswerWithEchoAndLogprobs) {
  Ask(R"({"prompt": "Hello", "echo": true, "logprobs": 1,
          "max_tokens": 1})");
  StreamEvent event = Last(82, "o");
  event.prompt = {2, 43};
  event.prompt_logprobs = {{}, {{43, -1.5F}, {{44, -0.5F}}}};
  event.logprobs = {{{82, -0.25F}, {{82, -0.25F}}}};
  const Json answer = Json::parse(answer_->Whole({event}));
  EXPECT_EQ(answer["object"], "text_completion");
  const Json choice = answer["choices"][0];
  EXPECT_EQ(choice["text"], "Helloo");
  const Json& logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"][0], "</s>");
  const Json expected = {nullptr, -1.5, -0.25};
  EXPECT_EQ(logprobs["token_logprobs"], expected);
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_THAT(logprobs["top_logprobs"][1], SizeIs(2));
  EXPECT_THAT(logprobs["top_logprobs"][2], SizeIs(1));
  EXPECT_EQ(logprobs["text_offset"][1], 4);
}

TEST_F(AnswerTest, WithoutTokensOnlyTheEchoIsTold) {
  Ask(R"({"prompt": [[2, 43]], "echo": true, "logprobs": 0,
          "max_tokens": 0})");
  StreamEvent event = Last(82, "o");
  event.prompt = {2, 43};
  event.prompt_logprobs = {{}, {{43, -1.5F}, {}}};
  event.logprobs = {{{82, -0.25F}, {}}};
  const Json answer = Json::parse(answer_->Whole({event}));
  EXPECT_EQ(answer["choices"][0]["text"], Demo()->Decode({43}, true));
  EXPECT_THAT(answer["choices"][0]["logprobs"]["tokens"], SizeIs(2));
  EXPECT_EQ(answer["usage"]["completion_tokens"], 0);
}

TEST_F(AnswerTest, LogprobsOfAChatHaveBytes) {
  Ask(R"({"messages": [{"role": "user", "content": "a"}], "logprobs": true,
          "top_logprobs": 1})",
      OpenAiForm::kChat);
  StreamEvent event = Last(43, "H");
  event.logprobs = {{{43, -0.25F}, {{43, -0.25F}, {44, -3.0F}}}};
  const Json answer = Json::parse(answer_->Whole({event}));
  EXPECT_EQ(answer["object"], "chat.completion");
  const Json message = {{"role", "assistant"}, {"content", "H"}};
  EXPECT_EQ(answer["choices"][0]["message"], message);
  const Json one = answer["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(one["logprob"], -0.25);
  EXPECT_THAT(one["top_logprobs"], SizeIs(1));
  EXPECT_EQ(one["bytes"].size(), Demo()->TokenBytes(43).size());
}

TEST_F(AnswerTest, TheBestOfSeveralByMeanLogprob) {
  Ask(R"({"prompt": ["a", "b"], "n": 1, "best_of": 2})");
  std::vector<StreamEvent> events;
  for (const float logprob : {-2.0F, -1.0F, -1.0F, -2.0F}) {
    events.push_back(Last(82, std::to_string(events.size())));
    events.back().logprobs = {{{82, logprob}, {}}};
  }
  const Json answer = Json::parse(answer_->Whole(events));
  ASSERT_THAT(answer["choices"], SizeIs(2));
  EXPECT_EQ(answer["choices"][0]["text"], "1");
  EXPECT_EQ(answer["choices"][1]["text"], "2");
  EXPECT_EQ(answer["choices"][1]["index"], 1);
  EXPECT_TRUE(answer["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 8) << "each prompt once";
  EXPECT_EQ(answer["usage"]["completion_tokens"], 8);
}

TEST_F(AnswerTest, AnErrorBreaksAStream) {
  EXPECT_EQ(OpenAiAnswer::BrokenEnd({.status = 503, .message = "gone"}),
            R"(data: {"error":{"message":"gone","type":)"
            R"("invalid_request_error","param":null,"code":null}})"
            "\n\ndata: [DONE]\n\n");
}

}  // namespace
}  // namespace h2o
