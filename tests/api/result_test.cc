// Tests the JSON form of a result and the names of its ends.
#include "api/result.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace h2o
