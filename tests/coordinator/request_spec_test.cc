// What needs the model is refused here, with the value and the arithmetic.
#include "coordinator/request_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/model/small_config.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

RequestRules Rules() { return {.config = SmallConfig()}; }  // 512 positions

Request Tokens(int prompt, std::optional<int32_t> max_tokens = {}) {
  Request request;
  request.tokens.assign(prompt, 5);
  request.max_tokens = max_tokens;
  return request;
}

TEST(SpecOf, ResolvesWhatTheWorkersNeed) {
  Request request = Tokens(10, 5);
  request.ignore_eos = true;
  request.sampling.seed = 7;
  request.kv_policy = KvPolicyRequest{KvPolicyName::kH2o, 40};
  const SequenceSpec spec = SpecOf(request, Rules()).value();
  EXPECT_EQ(spec.id, 0u);
  EXPECT_EQ(spec.prompt, request.tokens);
  EXPECT_EQ(spec.max_tokens, 5);
  EXPECT_TRUE(spec.ignore_eos);
  EXPECT_EQ(spec.sampling.seed, 7u);
  EXPECT_EQ(spec.policy.slots[0].heavy, 20);
}

TEST(SpecOf, MaxTokensDefaultsToWhatFits) {
  EXPECT_EQ(SpecOf(Tokens(10), Rules())->max_tokens, 128);
  EXPECT_EQ(SpecOf(Tokens(500), Rules())->max_tokens, 13);
  EXPECT_EQ(SpecOf(Tokens(512), Rules())->max_tokens, 1);
}

TEST(SpecOf, NamesTheValue) {
  const auto expect = [](const Request& request, const char* says,
                         const RequestRules& rules) {
    const absl::Status status = SpecOf(request, rules).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  };
  Request stranger = Tokens(3, 5);
  stranger.tokens[1] = 1000;
  expect(stranger, "prompt token 1000 at index 1", Rules());
  Request forced = Tokens(3, 2);
  forced.forced = {1000};
  expect(forced, "forced token 1000 at index 0", Rules());
  expect(Tokens(500, 14), "need 513 positions; the model has 512", Rules());
  expect(Tokens(513), "513 tokens", Rules());
  RequestRules capped = Rules();
  capped.kv_budget_cap = 100;
  expect(Tokens(90, 50), "139 slots a head; this server's cap is 100", capped);
}

TEST(SpecOf, RefusesTokensThatTheModelDoesNotHave) {
  const auto refusal = [](const Request& request) {
    return std::string(SpecOf(request, Rules()).status().message());
  };
  const int size = Rules().config.vocab_size;
  Request request = Tokens(3);
  request.stop_token_ids = {size};
  EXPECT_THAT(refusal(request), HasSubstr("stop token id"));
  request.stop_token_ids.assign(kMaxStopTokens, 7);
  EXPECT_THAT(refusal(request), HasSubstr("at most 32"));
  request.ignore_eos = true;
  EXPECT_EQ(SpecOf(request, Rules())->stop_tokens.size(), 32u);
  request = Tokens(3);
  request.logit_bias = {{size, 1}};
  EXPECT_THAT(refusal(request), HasSubstr("token of logit_bias"));
  request = Tokens(3);
  request.min_tokens = kDefaultMaxTokens + 1;
  EXPECT_THAT(refusal(request), HasSubstr("min_tokens is 129"));
}

TEST(CheckUnencoded, TextsNeedATokenizer) {
  Request text;
  text.has_text = true;
  EXPECT_THAT(std::string(CheckUnencoded(text, Rules()).message()),
              HasSubstr("no tokenizer; send token ids"));
  Request stop = Tokens(3);
  stop.stop = {"x"};
  EXPECT_THAT(std::string(CheckUnencoded(stop, Rules()).message()),
              HasSubstr("stop strings, but the model has no tokenizer"));
  EXPECT_TRUE(CheckUnencoded(Tokens(3), Rules()).ok());
}

TEST(EncodePrompt, TurnsATextIntoTokens) {
  const auto tokenizer = Tokenizer::Load("models/opt-demo", 8192).value();
  Request request;
  request.has_text = true;
  request.text = "hi";
  const std::vector<int32_t> tokens = tokenizer->Encode("hi").value();
  ASSERT_TRUE(EncodePrompt(tokenizer.get(), &request).ok());
  EXPECT_FALSE(request.has_text);
  EXPECT_EQ(request.tokens, tokens);
  Request given = Tokens(2);
  ASSERT_TRUE(EncodePrompt(nullptr, &given).ok());
  EXPECT_THAT(given.tokens, ElementsAre(5, 5));
}

}  // namespace
}  // namespace h2o
