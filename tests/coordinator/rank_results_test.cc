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
  result.sum_wait_seconds = seconds / 4;
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
  const GroupResult all = results.Take().value();
  const StepResult& merged = all.step;
  EXPECT_EQ(merged.step, 1);
  EXPECT_EQ(merged.decode_seconds, 0.75);
  EXPECT_EQ(merged.idle_seconds, 0.75);
  ASSERT_EQ(merged.tokens.size(), 1);
  EXPECT_EQ(merged.tokens[0].token, 0);
  ASSERT_EQ(merged.trace.size(), 2);
  EXPECT_EQ(merged.trace[1].head, 1);
  ASSERT_EQ(all.ranks.size(), 2);
  EXPECT_EQ(all.ranks[0].step_seconds, 0.75);
  EXPECT_EQ(all.ranks[1].step_seconds, 0.25);
  EXPECT_EQ(all.ranks[1].sum_wait_seconds, 0.0625);
  EXPECT_FALSE(results.Complete());
  results.Clear();
  EXPECT_TRUE(results.Owes(1));
}

TEST(RankResults, RanksThatDivergeAreAnError) {
  RankResults results(2);
  results.Push(0, ResultOf(1, 0, 0));
  results.Push(1, ResultOf(2, 0, 0));
  EXPECT_EQ(results.Take().status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(results.diverged(), 1);
}

TEST(FindDiverged, TheMajorityIsRight) {
  const StepResult right = ResultOf(7, 0, 0);
  const StepResult wrong = ResultOf(8, 0, 0);
  EXPECT_EQ(FindDiverged({right, right}), -1);
  EXPECT_EQ(FindDiverged({right, wrong}), 1);
  EXPECT_EQ(FindDiverged({wrong, right, right}), 0);
  EXPECT_EQ(FindDiverged({right, right, wrong}), 2);
}

}  // namespace
}  // namespace h2o
