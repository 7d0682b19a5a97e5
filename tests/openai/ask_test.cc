// Tests that bodies of OpenAI's API become requests, and that what is wrong
// with them is told by field.
#include "openai/ask.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "openai/api_error.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;

OpenAiRules Rules() {
  return {.model_names = {"demo", "models/demo"},
          .default_kv_policy = {.name = KvPolicyName::kH2o}};
}

OpenAiAsk Completion(const std::string& body) {
  auto ask = ParseAsk(OpenAiForm::kCompletion, body, Rules());
  EXPECT_TRUE(ask.ok()) << ask.status();
  return *std::move(ask);
}

OpenAiAsk Chat(const std::string& fields) {
  auto ask = ParseAsk(
      OpenAiForm::kChat,
      R"({"messages": [{"role": "user", "content": "hi"}])" + fields + "}",
      Rules());
  EXPECT_TRUE(ask.ok()) << ask.status();
  return *std::move(ask);
}

// The error of a completion with the prompt "a" and these fields.
ApiError ErrorWith(const std::string& fields,
                   const OpenAiRules& rules = Rules()) {
  const auto ask = ParseAsk(OpenAiForm::kCompletion,
                            R"({"prompt": "a", )" + fields + "}", rules);
  EXPECT_FALSE(ask.ok()) << fields;
  return ErrorOf(ask.status());
}

TEST(ParseAsk, HasTheDefaultsOfOpenAi) {
  const OpenAiAsk ask = Completion(R"({"prompt": "Hello"})");
  EXPECT_EQ(ask.model, "demo");
  ASSERT_EQ(ask.prompts.size(), 1u);
  const Request& request = ask.prompts.front();
  EXPECT_TRUE(request.has_text);
  EXPECT_EQ(request.text, "Hello");
  EXPECT_EQ(request.max_tokens, 16);
  EXPECT_EQ(request.sampling.temperature, 1);
  EXPECT_FALSE(request.has_seed);
  EXPECT_FALSE(request.logprobs);
  EXPECT_FALSE(request.kv_policy.has_value());
  EXPECT_FALSE(ask.stream);
  EXPECT_EQ(ask.candidates(), 1);
}

TEST(ParseAsk, TakesPromptsInAllFourForms) {
  EXPECT_THAT(Completion(R"({"prompt": [5, 6]})").prompts.front().tokens,
              ElementsAre(5, 6));
  const OpenAiAsk texts = Completion(R"({"prompt": ["a", "b"], "n": 2})");
  ASSERT_EQ(texts.candidates(), 4);
  EXPECT_EQ(texts.prompts[1].text, "b");
  EXPECT_EQ(texts.prompts[1].n, 2);
  const OpenAiAsk tokens = Completion(R"({"prompt": [[5], [6, 7]]})");
  EXPECT_THAT(tokens.prompts[1].tokens, ElementsAre(6, 7));
}

TEST(ParseAsk, ReadsWhatVllmHasBesideOpenAi) {
  const OpenAiAsk ask = Completion(R"({"prompt": "a", "top_k": -1,
      "min_p": 0.1, "repetition_penalty": 1.5, "min_tokens": 2,
      "ignore_eos": true, "stop_token_ids": [7],
      "include_stop_str_in_output": true, "skip_special_tokens": true,
      "priority": 3, "logit_bias": {"5": -1.5}, "stop": "x",
      "user": "u", "logprobs": null, "made_up": [1]})");
  const Request& request = ask.prompts.front();
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_FLOAT_EQ(request.sampling.min_p, 0.1F);
  EXPECT_FLOAT_EQ(request.sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(request.min_tokens, 2);
  EXPECT_TRUE(request.ignore_eos);
  EXPECT_TRUE(request.include_stop);
  EXPECT_THAT(request.stop_token_ids, ElementsAre(7));
  EXPECT_THAT(request.stop, ElementsAre("x"));
  EXPECT_EQ(request.priority, -3) << "a lower one goes first in vLLM";
  ASSERT_EQ(request.logit_bias.size(), 1u);
  EXPECT_EQ(request.logit_bias[0].token, 5);
}

TEST(ParseAsk, SeedsAreSigned) {
  const OpenAiAsk ask = Completion(R"({"prompt": "a", "seed": -1})");
  EXPECT_EQ(ask.prompts[0].sampling.seed, ~uint64_t{0});
  EXPECT_TRUE(ask.prompts[0].has_seed);
}

TEST(ParseAsk, PoliciesComeWithOrWithoutTheirBudget) {
  const auto policy = [](const std::string& fields) {
    return *Completion(R"({"prompt": "a", )" + fields + "}")
                .prompts.front()
                .kv_policy;
  };
  EXPECT_EQ(policy(R"("kv_policy": "sink")").name, KvPolicyName::kSink);
  const KvPolicyRequest share = policy(R"("kv_budget": "20%")");
  EXPECT_EQ(share.name, KvPolicyName::kH2o) << "the server's";
  EXPECT_EQ(share.budget_percent, 20);
  EXPECT_EQ(policy(R"("kv_policy": "h2o", "kv_budget": 205)").budget_tokens,
            205);
  const KvPolicyRequest parts =
      policy(R"("kv_policy": "h2o", "kv_heavy": 3, "kv_recent": 4)");
  EXPECT_EQ(parts.heavy, 3);
  EXPECT_EQ(parts.recent, 4);
}

TEST(ParseAsk, LogprobsOfCompletionsAndOfChats) {
  const Request none = Completion(R"({"prompt": "a"})").prompts.front();
  EXPECT_FALSE(none.logprobs || none.prompt_logprobs || none.report_prompt);
  const OpenAiAsk chosen = Completion(R"({"prompt": "a", "logprobs": 0})");
  EXPECT_TRUE(chosen.prompts.front().logprobs);
  EXPECT_EQ(chosen.logprobs, 0);
  // As lm-eval's local-completions asks.
  const OpenAiAsk echo = Completion(
      R"({"prompt": [[5, 6]], "echo": true, "logprobs": 1, "max_tokens": 0})");
  EXPECT_TRUE(echo.no_tokens && echo.prompts.front().prompt_logprobs);
  EXPECT_EQ(echo.prompts.front().max_tokens, 1);
  EXPECT_EQ(echo.prompts.front().top_logprobs, 1);
  const OpenAiAsk chat = Chat(R"(, "logprobs": true, "top_logprobs": 4)");
  EXPECT_EQ(chat.logprobs, 4);
  EXPECT_EQ(chat.prompts.front().top_logprobs, 4);
}

TEST(ParseAsk, AChatFillsThePositionsUnlessTold) {
  const OpenAiAsk ask = Chat("");
  EXPECT_TRUE(ask.prompts.front().fills_positions);
  EXPECT_FALSE(ask.prompts.front().max_tokens.has_value());
  EXPECT_FALSE(ask.prompts.front().add_special_tokens)
      << "the template writes them";
  EXPECT_EQ(Chat(R"(, "max_completion_tokens": 5, "max_tokens": 9)")
                .prompts.front()
                .max_tokens,
            5);
}

struct BadField {
  const char* fields;
  const char* param;
  const char* code = "invalid_value";
  int status = 400;
};

TEST(ParseAsk, ErrorsNameTheField) {
  constexpr const char* kNot = "unsupported_parameter";
  for (const auto& c : {
           BadField{R"("temperature": "hot")", "temperature"},
           BadField{R"("max_tokens": 0)", "max_tokens"},
           BadField{R"("max_tokens": -1)", "max_tokens"},
           BadField{R"("max_tokens": 4294967297)", "max_tokens"},
           BadField{R"("n": 0)", "n"},
           BadField{R"("n": 2, "best_of": 1)", "best_of"},
           BadField{R"("best_of": 2, "stream": true)", "best_of"},
           BadField{R"("logprobs": 21)", "logprobs"},
           BadField{R"("logprobs": true)", "logprobs"},
           BadField{R"("seed": 9223372036854775808)", "seed"},
           BadField{R"("seed": 1.5)", "seed"},
           BadField{R"("stop": [1])", "stop"},
           BadField{R"("logit_bias": {"x": 1})", "logit_bias"},
           BadField{R"("kv_policy": "best")", "kv_policy"},
           BadField{R"("kv_budget": "much")", "kv_budget"},
           BadField{R"("stream_options": true)", "stream_options"},
           BadField{R"("generated": [5], "n": 2)", "generated"},
           BadField{R"("model": "other")", "model", "model_not_found", 404},
           BadField{R"("response_format": {"type": "json_object"})",
                    "response_format", kNot},
           BadField{R"("suffix": "x")", "suffix", kNot},
           BadField{R"("tools": [{}])", "tools", kNot},
           BadField{R"("use_beam_search": true)", "use_beam_search", kNot},
           BadField{R"("guided_json": {})", "guided_json", kNot},
       }) {
    const ApiError error = ErrorWith(c.fields);
    EXPECT_EQ(error.param, c.param) << c.fields;
    EXPECT_EQ(error.code, c.code) << c.fields;
    EXPECT_EQ(error.status, c.status) << c.fields;
    EXPECT_FALSE(error.message.empty()) << c.fields;
  }
}

TEST(ParseAsk, UnknownFieldsChangeNothingUnlessStrict) {
  OpenAiRules strict = Rules();
  strict.strict_fields = true;
  const ApiError error = ErrorWith(R"("made_up": null)", strict);
  EXPECT_EQ(error.param, "made_up");
  EXPECT_EQ(error.code, "unknown_parameter");
  EXPECT_TRUE(ParseAsk(OpenAiForm::kCompletion,
                       R"({"prompt": "a", "user": "u"})", strict)
                  .ok());
}

TEST(ParseAsk, BodiesThatAreNoObjectAndPromptsThatAreNone) {
  for (const char* body :
       {"", "{", "[1]", "null", R"({"prompt": "a")", R"({"prompt": NaN})",
        "{\"prompt\": \"\xff\"}", R"({"prompt": [1, "a"]})", "{}",
        R"({"prompt": []})", R"({"prompt": [[]]})", R"({"prompt": {}})",
        R"({"prompt": [["a"]]})"}) {
    const auto ask = ParseAsk(OpenAiForm::kCompletion, body, Rules());
    ASSERT_FALSE(ask.ok()) << body;
    EXPECT_EQ(ErrorOf(ask.status()).status, 400) << body;
  }
}

}  // namespace
}  // namespace h2o
