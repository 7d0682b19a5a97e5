// Results of ranks that answer at different times.
#include "coordinator/rank_results.h"

#include <gtest/gtest.h>

namespace h2o {
namespace {

StepResult ResultOf(uint64_t step, double seconds, int head) {
  StepResult result;
  result.step = step;
  result.checksum = step * 17;
  result.tokens = {{.sequence_id = 1, .token = head}};
  result.trace = {{.sequence_id = 1, .head = head}};
  result.decode_seconds = seconds;
  result.idle_seconds = 1 - seconds;
  return result;
}

TEST(RankResults, APlanIsDoneWhenAllHaveAnswered) {
  RankResults results(2);
  EXPECT_FALSE(results.Complete());
  results.Push(1, ResultOf(1, 0.25, 1));
  results.Push(1, ResultOf(2, 0.5, 1));
  EXPECT_EQ(results.waiting(1), 2);
  EXPECT_TRUE(results.Owes(0));
  EXPECT_FALSE(results.Complete());
  results.Push(0, ResultOf(1, 0.75, 0));
  ASSERT_TRUE(results.Complete());
  const StepResult merged = results.Take().value();
  EXPECT_EQ(merged.step, 1);
  EXPECT_EQ(merged.decode_seconds, 0.75);
  EXPECT_EQ(merged.idle_seconds, 0.75);
  ASSERT_EQ(merged.tokens.size(), 1);
  EXPECT_EQ(merged.tokens[0].token, 0);
  ASSERT_EQ(merged.trace.size(), 2);
  EXPECT_EQ(merged.trace[1].head, 1);
  EXPECT_FALSE(results.Complete());
  results.Clear();
  EXPECT_TRUE(results.Owes(1));
}

TEST(RankResults, RanksThatDivergeAreAnError) {
  RankResults results(2);
  results.Push(0, ResultOf(1, 0, 0));
  results.Push(1, ResultOf(2, 0, 0));
  EXPECT_EQ(results.Take().status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace h2o
