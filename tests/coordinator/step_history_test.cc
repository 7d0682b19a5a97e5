// What is remembered of a group's steps.
#include "coordinator/step_history.h"

#include <gtest/gtest.h>

#include "coordinator/group_status.h"

namespace h2o {
namespace {

StepPlan PlanOf(uint64_t step) {
  StepPlan plan;
  plan.step = step;
  plan.admit.push_back({.id = step});
  for (uint64_t id = 0; id < 40; ++id) plan.decode.push_back(id);
  plan.prefill = {{.sequence_ids = {7, 8}, .layer_begin = 2, .layer_end = 5}};
  return plan;
}

GroupResult ResultOf(uint64_t step, double slow) {
  GroupResult result;
  result.step.step = step;
  result.step.tokens.resize(3);
  result.ranks = {{.step_seconds = slow, .sum_wait_seconds = 0},
                  {.step_seconds = slow, .sum_wait_seconds = slow / 4}};
  return result;
}

TEST(StepHistory, KeepsTheLastStepsAndWhatIsUnderWay) {
  StepHistory history(2);
  EXPECT_TRUE(history.Records().empty());
  for (uint64_t step = 1; step <= 300; ++step) {
    history.Sent(PlanOf(step), 11, static_cast<double>(step));
    if (step < 300) history.Done(ResultOf(step, 0.5), step + 0.5);
  }
  const std::vector<const StepRecord*> records = history.Records();
  ASSERT_EQ(records.size(), StepHistory::kSteps);
  EXPECT_EQ(records.front()->step, 300 - StepHistory::kSteps + 1);
  EXPECT_EQ(records.front()->done, records.front()->sent + 0.5);
  EXPECT_EQ(records.front()->tokens, 3);
  EXPECT_EQ(records.front()->ranks[1].sum_wait_seconds, 0.125);
  const StepRecord& last = *records.back();
  EXPECT_EQ(last.step, 300);
  EXPECT_EQ(last.done, 0);
  EXPECT_EQ(last.ranks[0].step_seconds, 0);
  EXPECT_EQ(last.pages_held, 11);
  EXPECT_EQ(last.decoded.count, 40);
  EXPECT_EQ(last.decoded.known().size(), FirstIds::kMost);
  EXPECT_EQ(last.admitted.known()[0], 300);
  EXPECT_EQ(last.prefilled.known().size(), 2);
  EXPECT_EQ(last.layer_end, 5);
  EXPECT_EQ(history.RecentSeconds(0).size(), StepHistory::kSteps - 1);
}

TEST(StepHistory, TellsTheSlowRank) {
  StepHistory history(2);
  for (uint64_t step = 1; step <= 500; ++step) {
    history.Sent(PlanOf(step), 0, 0);
    history.Done(ResultOf(step, 0.02), 1);
  }
  EXPECT_EQ(history.rank(0).step_seconds.count(), 500);
  EXPECT_DOUBLE_EQ(history.rank(0).skew_seconds, 0.005);
  EXPECT_DOUBLE_EQ(history.rank(1).skew_seconds, 0);
  EXPECT_DOUBLE_EQ(history.rank(1).sum_wait_seconds, 0.005);
}

TEST(Percentile, OfFewValues) {
  EXPECT_EQ(Percentile({}, 0.5), 0);
  EXPECT_EQ(Percentile({3}, 0.99), 3);
  EXPECT_EQ(Percentile({5, 1, 4, 2, 3}, 0.5), 3);
  EXPECT_EQ(Percentile({5, 1, 4, 2, 3}, 0.99), 5);
}

}  // namespace
}  // namespace h2o
