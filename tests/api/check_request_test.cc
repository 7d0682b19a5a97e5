// Which requests are possible, as a table of those that are not.
#include "api/check_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>

namespace h2o {
namespace {

using ::testing::HasSubstr;

Request Possible() {
  Request request;
  request.tokens = {2, 5};
  return request;
}

TEST(CheckRequest, NamesTheFieldAndTheValue) {
  using R = Request;
  const std::pair<const char*, std::function<void(R*)>> bad[] = {
      {"the prompt has no tokens", [](R* r) { r->tokens.clear(); }},
      {"tokens[1] is -1", [](R* r) { r->tokens[1] = -1; }},
      {"the prompt is not UTF-8: byte 0xff at offset 1",
       [](R* r) {
         r->has_text = true;
         r->text = "a\xff";
       }},
      {"generated[1] is -5",
       [](R* r) {
         r->generated = {3, -5};
       }},
      {"max_tokens is 0", [](R* r) { r->max_tokens = 0; }},
      {"temperature is -0.5", [](R* r) { r->sampling.temperature = -0.5f; }},
      {"temperature is nan", [](R* r) { r->sampling.temperature = NAN; }},
      {"temperature is inf", [](R* r) { r->sampling.temperature = INFINITY; }},
      {"top_k is -1", [](R* r) { r->sampling.top_k = -1; }},
      {"top_p is 1.5", [](R* r) { r->sampling.top_p = 1.5f; }},
      {"top_p is nan", [](R* r) { r->sampling.top_p = NAN; }},
      {"min_p is 1.5", [](R* r) { r->sampling.min_p = 1.5f; }},
      {"repetition_penalty is -1",
       [](R* r) { r->sampling.repetition_penalty = -1; }},
      {"repetition_penalty is inf",
       [](R* r) { r->sampling.repetition_penalty = INFINITY; }},
      {"frequency_penalty is 2.5",
       [](R* r) { r->sampling.frequency_penalty = 2.5f; }},
      {"presence_penalty is nan",
       [](R* r) { r->sampling.presence_penalty = NAN; }},
      {"logit_bias of token 5 is 101",
       [](R* r) {
         r->logit_bias = {{5, 101}};
       }},
      {"logit_bias names token -1",
       [](R* r) {
         r->logit_bias = {{-1, 1}};
       }},
      {"logit_bias names token 5 twice",
       [](R* r) {
         r->logit_bias = {{5, 1}, {6, 1}, {5, 1}};
       }},
      {"logit_bias has 1025 tokens",
       [](R* r) {
         r->logit_bias.assign(1025, {5, 1});
       }},
      {"top_logprobs is 21",
       [](R* r) {
         r->logprobs = true;
         r->top_logprobs = 21;
       }},
      {"neither logprobs nor", [](R* r) { r->top_logprobs = 3; }},
      {"stop_token_ids has 33", [](R* r) { r->stop_token_ids.assign(33, 1); }},
      {"stop_token_ids[0] is -1", [](R* r) { r->stop_token_ids = {-1}; }},
      {"min_tokens is -1", [](R* r) { r->min_tokens = -1; }},
      {"min_tokens is 9; max_tokens is 8",
       [](R* r) {
         r->max_tokens = 8;
         r->min_tokens = 9;
       }},
      {"stop has 17 strings", [](R* r) { r->stop.assign(17, "x"); }},
      {"stop[1] is empty",
       [](R* r) {
         r->stop = {"x", ""};
       }},
      {"stop[0] has 257 bytes",
       [](R* r) { r->stop = {std::string(257, 'x')}; }},
      {"stop[0] is not UTF-8", [](R* r) { r->stop = {"\xff"}; }},
      {"kv policy full",
       [](R* r) {
         r->kv_policy = KvPolicyRequest{KvPolicyName::kFull, 40};
       }},
  };
  for (const auto& [says, spoil] : bad) {
    Request request = Possible();
    spoil(&request);
    const absl::Status status = CheckRequest(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
}

TEST(CheckRequest, ResumingDrawsNeedsTheirSeed) {
  Request request = Possible();
  request.generated = {3, 5};
  request.sampling.temperature = 1;
  request.has_seed = false;
  const absl::Status status = CheckRequest(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("without the seed"));
  request.has_seed = true;
  EXPECT_TRUE(CheckRequest(request).ok());
  request.has_seed = false;
  request.sampling.temperature = 0;
  EXPECT_TRUE(CheckRequest(request).ok());
  request.generated = {-1};
  EXPECT_FALSE(CheckRequest(request).ok());
}

TEST(CheckRequest, TakesAllThatIsPossible) {
  EXPECT_TRUE(CheckRequest(Possible()).ok());
  Request request;
  request.has_text = true;  // an empty text is a prompt
  request.sampling = {.temperature = 2, .top_k = 1, .top_p = 1, .seed = ~0ull};
  request.stop.assign(kMaxStopStrings, std::string(kMaxStopBytes, 'x'));
  request.kv_policy = KvPolicyRequest{KvPolicyName::kH2o, 40};
  EXPECT_TRUE(CheckRequest(request).ok());
}

}  // namespace
}  // namespace h2o
