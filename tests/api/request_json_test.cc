// The JSON form of a request, and the flags that are options of it.
#include "api/request_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(RequestFromJson, ReadsEveryOption) {
  const absl::StatusOr<Request> request = RequestFromJson(
      R"({"tokens": [2, 5], "max_tokens": 7, "kv_policy": "h2o",
          "kv_budget": "25%", "temperature": 0.5, "top_k": 40, "top_p": 0.9,
          "seed": 18446744073709551615, "stop": ["a", "b"],
          "min_p": 0.1, "repetition_penalty": 1.5, "frequency_penalty": 0.25,
          "presence_penalty": -0.5, "logit_bias": {"9": 2, "3": -1.5},
          "logprobs": true, "top_logprobs": 6, "prompt_logprobs": true,
          "include_stop": true, "stop_token_ids": [8], "min_tokens": 2,
          "add_special_tokens": false,
          "ignore_eos": true, "generated": [3, 4]})",
      {});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_FALSE(request->has_text);
  EXPECT_THAT(request->tokens, ElementsAre(2, 5));
  EXPECT_EQ(request->max_tokens, 7);
  EXPECT_EQ(request->kv_policy->name, KvPolicyName::kH2o);
  EXPECT_EQ(request->kv_policy->budget_percent, 25);
  EXPECT_EQ(request->sampling.temperature, 0.5f);
  EXPECT_EQ(request->sampling.top_k, 40);
  EXPECT_EQ(request->sampling.top_p, 0.9f);
  EXPECT_TRUE(request->has_seed);
  EXPECT_EQ(request->sampling.seed, ~0ull);
  EXPECT_THAT(request->stop, ElementsAre("a", "b"));
  EXPECT_EQ(request->sampling.min_p, 0.1f);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(request->sampling.frequency_penalty, 0.25f);
  EXPECT_EQ(request->sampling.presence_penalty, -0.5f);
  EXPECT_THAT(request->logit_bias,
              ElementsAre(LogitBias{3, -1.5f}, LogitBias{9, 2}));
  EXPECT_TRUE(request->logprobs);
  EXPECT_EQ(request->top_logprobs, 6);
  EXPECT_TRUE(request->prompt_logprobs);
  EXPECT_TRUE(request->include_stop);
  EXPECT_THAT(request->stop_token_ids, ElementsAre(8));
  EXPECT_EQ(request->min_tokens, 2);
  EXPECT_FALSE(request->add_special_tokens);
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_THAT(request->generated, ElementsAre(3, 4));
}

TEST(RequestFromJson, TakesTheRestFromTheDefaults) {
  Request defaults;
  defaults.max_tokens = 50;
  defaults.stop = {"x"};
  defaults.kv_policy = KvPolicyRequest{KvPolicyName::kSink, 40};
  const auto read = [&](const char* text) {
    return RequestFromJson(text, defaults).value();
  };
  Request request = read(R"({"prompt": "hi"})");
  EXPECT_TRUE(request.has_text);
  EXPECT_EQ(request.text, "hi");
  EXPECT_EQ(request.max_tokens, 50);
  EXPECT_FALSE(request.has_seed);
  EXPECT_THAT(request.stop, ElementsAre("x"));
  EXPECT_EQ(request.kv_policy->budget_tokens, 40);

  // A budget goes with the default policy, a policy replaces its budget.
  request = read(R"({"prompt": "", "kv_budget": 9, "stop": "y"})");
  EXPECT_THAT(request.stop, ElementsAre("y"));
  EXPECT_EQ(request.kv_policy->name, KvPolicyName::kSink);
  EXPECT_EQ(request.kv_policy->budget_tokens, 9);
  request = read(R"({"prompt": "", "kv_policy": "recent"})");
  EXPECT_EQ(request.kv_policy->name, KvPolicyName::kRecent);
  EXPECT_FALSE(request.kv_policy->budget_tokens.has_value());
}

TEST(RequestFromJson, NamesTheKeyAndTheValue) {
  const std::pair<const char*, const char*> bad[] = {
      {"nonsense", "JSON object"},
      {"[1]", "not an object"},
      {"{}", "either"},
      {R"({"prompt": "a", "tokens": [1]})", "either"},
      {R"({"prompt": 5})", "prompt is 5"},
      {R"({"tokens": 5})", "tokens is 5"},
      {R"({"tokens": [1, "x"]})", "tokens is \"x\""},
      {R"({"tokens": [99999999999]})", "tokens is 99999999999"},
      {R"({"tokens": [-2147483649]})", "tokens is -2147483649"},
      {R"({"prompt": "a", "max_token": 5})", "unknown key \"max_token\""},
      {R"({"prompt": "a", "max_tokens": 2.5})", "max_tokens is 2.5"},
      {R"({"prompt": "a", "max_tokens": 2147483648})", "2147483647"},
      {R"({"prompt": "a", "kv_policy": "best"})", "kv_policy is \"best\""},
      {R"({"prompt": "a", "kv_budget": "lots"})", "'lots'"},
      {R"({"prompt": "a", "kv_budget": 0.5})", "did you mean 50%?"},
      {R"({"prompt": "a", "kv_budget": true})", "kv_budget is true"},
      {R"({"prompt": "a", "temperature": "hot"})", "temperature is \"hot\""},
      {R"({"prompt": "a", "top_k": null})", "top_k is null"},
      {R"({"prompt": "a", "seed": -3})", "seed is -3"},
      {R"({"prompt": "a", "seed": 18446744073709551616})", "seed is 1.8"},
      {R"({"prompt": "a", "stop": 5})", "stop is 5"},
      {R"({"prompt": "a", "stop": [5]})", "stop is 5"},
      {R"({"prompt": "a", "ignore_eos": 1})", "ignore_eos is 1"},
      {R"({"prompt": "a", "generated": 1})", "generated is 1"},
  };
  for (const auto& [text, says] : bad) {
    const absl::Status status = RequestFromJson(text, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
  EXPECT_THAT(
      std::string(
          RequestFromJson(R"({"tokens": [1], "x": 1})", {}).status().message()),
      HasSubstr("known are prompt, tokens, max_tokens, kv_policy, kv_budget, "
                "temperature, top_k, top_p, min_p, repetition_penalty, "
                "frequency_penalty, presence_penalty, logit_bias, logprobs, "
                "top_logprobs, prompt_logprobs, seed, stop, include_stop, "
                "stop_token_ids, min_tokens, add_special_tokens, ignore_eos, "
                "priority, generated"));
}

TEST(RequestFromJson, CarriesOtherKeysWhereTheyAreWanted) {
  std::string others = "x";
  EXPECT_TRUE(RequestFromJson(R"({"tokens": [1]})", {}, &others).ok());
  EXPECT_EQ(others, "");
  // "step" is near "stop", but both are words.
  EXPECT_TRUE(RequestFromJson(
                  R"({"id": 7, "tokens": [1], "step": [{}], "topic": "a\nb"})",
                  {}, &others)
                  .ok());
  EXPECT_EQ(others, R"({"id":7,"step":[{}],"topic":"a\nb"})");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"max_token", "did you mean max_tokens?"},
      {"maxTokens", "did you mean max_tokens?"},
      {"Top-K", "did you mean top_k?"},
      {"temprature", "did you mean temperature?"},
      {"text", "key of that name"},
      {"error", "key of that name"},
  };
  for (const auto& [key, says] : bad) {
    const absl::Status status =
        RequestFromJson(R"({"tokens": [1], ")" + key + "\": 1}", {}, &others)
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says)) << key;
  }
}

// Terminals and JSON answers get no bytes that are not UTF-8, cut or not.
TEST(RequestFromJson, ErrorsAreUtf8) {
  const std::string sextant = "\xf0\x9f\xa7\xad";  // four bytes
  for (int before = 0; before < 5; ++before) {
    const std::string pad(40 + before, 'x');
    const std::string longer = absl::StrCat(pad, sextant, sextant, sextant);
    for (const std::string& text :
         {std::string("{\"prompt\": \"a\xff\"}"),
          absl::StrCat("{\"top_k\": \"", longer, "\"}"),
          absl::StrCat("\"", longer, "\""), pad + sextant}) {
      const std::string message(RequestFromJson(text, {}).status().message());
      EXPECT_FALSE(message.empty());
      EXPECT_TRUE(CheckUtf8("the error", message).ok()) << message;
    }
  }
}

// The printer of values recurses; 100,000 brackets once overflowed its stack.
TEST(RequestFromJson, RefusesDeepValues) {
  const std::string brackets(100'000, '[');
  const std::string deep = brackets + std::string(100'000, ']');
  for (const std::string& text :
       {deep, brackets, "{\"max_tokens\": " + deep + ", \"prompt\": \"a\"}",
        "{\"tokens\": [" + deep + "]}", "{\"x\": " + deep + "}"}) {
    const absl::Status status = RequestFromJson(text, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_LT(status.message().size(), 500u);
  }
}

absl::Status Set(const std::string& name, const std::vector<std::string>& texts,
                 Request* request) {
  for (const RequestFlag& flag : FlagsOfRequests()) {
    if (flag.flag == name) return SetFromFlag(flag, texts, request);
  }
  return absl::NotFoundError(name);
}

TEST(SetFromFlag, ReadsWhatTheJsonFormReads) {
  Request request;
  EXPECT_TRUE(Set("--max-tokens", {"7"}, &request).ok());
  EXPECT_TRUE(Set("--temperature", {".5"}, &request).ok());
  EXPECT_TRUE(Set("--seed", {"18446744073709551615"}, &request).ok());
  EXPECT_TRUE(Set("--stop", {"a", "b"}, &request).ok());
  EXPECT_TRUE(Set("--ignore-eos", {}, &request).ok());
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_TRUE(request.has_seed);
  EXPECT_EQ(request.sampling.seed, ~0ull);
  EXPECT_THAT(request.stop, ElementsAre("a", "b"));
  EXPECT_TRUE(request.ignore_eos);
}

TEST(SetFromFlag, RefusesNumbersThatDoNotFitTheirType) {
  const std::pair<const char*, const char*> bad[] = {
      {"--seed", "-1"},           {"--seed", "18446744073709551616"},
      {"--seed", "1.5"},          {"--max-tokens", "2147483648"},
      {"--max-tokens", "many"},   {"--top-k", "-2147483649"},
      {"--temperature", "warm"},  {"--temperature", "1e39"},
      {"--temperature", "-1e39"}, {"--top-p", "1e400"},
  };
  for (const auto& [name, text] : bad) {
    Request request;
    const absl::Status status = Set(name, {text}, &request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument)
        << name << " " << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(" is "));
  }
}

}  // namespace
}  // namespace h2o
