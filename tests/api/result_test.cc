// Tests the JSON form of a result and the names of its ends.
#include "api/result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace h2o {
namespace {

TEST(ResultJson, HasExactlyTheContractsFields) {
  Result result;
  result.index = 3;
  result.tokens = {5, 2};
  result.text = "a\"\xff";  // never invalid JSON, whatever the text
  result.finish = FinishReason::kStop;
  result.usage = {10, 2, 11, 0, 100, 200, {}, 0, 0, 0};
  EXPECT_EQ(ResultJson(result),
            "{\"index\":3,\"tokens\":[5,2],\"text\":\"a\\\"\uFFFD\","
            "\"finish_reason\":\"stop\",\"usage\":{\"prompt_tokens\":10,"
            "\"completion_tokens\":2,\"kv_slots_held\":11,\"tokens_evicted\":0,"
            "\"kv_bytes\":100,\"kv_bytes_full\":200,"
            "\"attention_mass_kept\":null,\"replays\":0}}");
  result.status = absl::CancelledError("");
  EXPECT_EQ(FinishName(result), "cancelled");
  result.status = absl::DeadlineExceededError("");
  EXPECT_EQ(FinishName(result), "deadline");
  result.status = absl::UnavailableError("");
  EXPECT_EQ(FinishName(result), "error");
}

TEST(ResultJson, HasWhatWasAskedForBeside) {
  Result result;
  StreamEvent first, last;
  first.seed = 18446744073709551615u;
  first.tokens = {5};
  first.prompt_logprobs = {{}, {{7, -0.5f}, {}}};
  first.logprobs = {{{5, -0.25f}, {{5, -0.25f}, {9, -1.5f}}}};
  last.tokens = {2};
  last.logprobs = {{{2, -std::numeric_limits<float>::infinity()}, {}}};
  last.done = true;
  last.finish = FinishReason::kStop;
  last.stop_token = 2;
  result.Add(first);
  result.Add(last);
  const std::string line = ResultJson(result);
  EXPECT_THAT(line,
              ::testing::HasSubstr(
                  "\"stop_reason\":2,\"seed\":18446744073709551615,"
                  "\"logprobs\":[{\"token\":5,\"logprob\":-0.25,"
                  "\"top\":[{\"token\":5,\"logprob\":-0.25},"
                  "{\"token\":9,\"logprob\":-1.5}]},"
                  "{\"token\":2,\"logprob\":null,\"top\":[]}],"
                  "\"prompt_logprobs\":[null,{\"token\":7,\"logprob\":-0.5,"
                  "\"top\":[]}]}"));
  result.stop_string = "end";
  EXPECT_THAT(ResultJson(result), ::testing::HasSubstr("reason\":\"end\""));
}

}  // namespace
}  // namespace h2o
