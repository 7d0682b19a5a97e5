// Tests step plans: slices of prefill, packs, decode, retirement, and the stall
// target.
#include "coordinator/batch_scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kLayers = 10;

SequenceSpec Spec(uint64_t id, int prompt, int max_tokens) {
  SequenceSpec spec;
  spec.id = id;
  spec.prompt.assign(prompt, 5);
  spec.max_tokens = max_tokens;
  return spec;
}

StepResult Result(double layer_seconds) {
  StepResult result;
  result.slowest_layer_seconds = layer_seconds;
  return result;
}

// Sequence, first layer, end; of a pack its first sequence.
using Slice = std::array<int, 3>;
std::vector<Slice> Slices(const StepPlan& plan) {
  std::vector<Slice> slices;
  for (const PrefillSlice& s : plan.prefill) {
    slices.push_back(
        {static_cast<int>(s.sequence_ids.at(0)), s.layer_begin, s.layer_end});
  }
  return slices;
}

TEST(BatchScheduler, WithNobodyDecodingAPromptRunsWhole) {
  BatchScheduler scheduler(kLayers, 0.1);
  EXPECT_FALSE(scheduler.HasWork());
  scheduler.Admit(Spec(1, 100, 3));
  ASSERT_TRUE(scheduler.HasWork());
  const StepPlan first = scheduler.MakePlan();
  EXPECT_EQ(first.step, 1u);
  EXPECT_EQ(first.admit.size(), 1u);
  EXPECT_THAT(Slices(first), ElementsAre(Slice{1, 0, kLayers}));
  EXPECT_THAT(first.decode, ElementsAre(1));
  const StepPlan second = scheduler.MakePlan();
  EXPECT_EQ(second.step, 2u);
  EXPECT_THAT(second.admit, IsEmpty());
  EXPECT_THAT(second.decode, ElementsAre(1));
  // All three tokens are planned.
  EXPECT_FALSE(scheduler.HasWork());
  scheduler.Retire(1);
  ASSERT_TRUE(scheduler.HasWork());
  EXPECT_THAT(scheduler.MakePlan().retire, ElementsAre(1));
  EXPECT_FALSE(scheduler.HasWork());
}

SequenceSpec Fork(uint64_t id, uint64_t source, int prompt, int max_tokens) {
  SequenceSpec spec = Spec(id, prompt, max_tokens);
  spec.fork_of = source;
  return spec;
}

TEST(BatchScheduler, ForksDecodeAsSoonAsTheirSourceDoes) {
  BatchScheduler scheduler(kLayers, 0.1, 0, /*longest_step_seconds=*/1e-9);
  for (SequenceSpec spec : {Spec(1, 100, 3), Fork(2, 1, 100, 3),
                            Fork(3, 1, 100, 3), Spec(4, 100, 1)}) {
    scheduler.Admit(std::move(spec));
  }
  for (int layer = 0; layer + 1 < kLayers; ++layer) {
    const StepPlan plan = scheduler.MakePlan();
    EXPECT_THAT(Slices(plan), ElementsAre(Slice{1, layer, layer + 1}));
    EXPECT_THAT(plan.decode, IsEmpty());
  }
  scheduler.Retire(2);  // before it has begun
  EXPECT_THAT(scheduler.MakePlan().decode, ElementsAre(1, 3));
  EXPECT_THAT(scheduler.MakePlan().decode, ElementsAre(1, 3));
}

TEST(BatchScheduler, AForkTakesThePlaceOfASourceThatIsGone) {
  for (const int plans_before : {0, 1, 3}) {
    BatchScheduler scheduler(kLayers, 0.1, 0, /*longest_step_seconds=*/1e-9);
    for (SequenceSpec spec : {Spec(1, 100, 3), Fork(2, 1, 100, 3),
                              Fork(3, 1, 100, 3), Fork(4, 1, 100, 3)}) {
      scheduler.Admit(std::move(spec));
    }
    for (int i = 0; i < plans_before; ++i) scheduler.MakePlan();
    scheduler.Retire(2);
    scheduler.Retire(1);
    StepPlan plan = scheduler.MakePlan();
    if (plans_before == 0) {
      EXPECT_THAT(plan.retire, IsEmpty());
      ASSERT_EQ(plan.admit.size(), 2u);
      EXPECT_EQ(plan.admit[0].fork_of, 0u);
      EXPECT_EQ(plan.admit[1].fork_of, 3u);
    } else {
      EXPECT_THAT(plan.retire, ElementsAre(2, 1));
    }
    EXPECT_THAT(Slices(plan),
                ElementsAre(Slice{3, plans_before, plans_before + 1}));
    while (plan.decode.empty()) plan = scheduler.MakePlan();
    EXPECT_THAT(plan.decode, ElementsAre(3, 4));
  }
}

// Else a worker in the midst of a long prompt would be taken for a dead one.
TEST(BatchScheduler, WithNobodyDecodingNoStepTakesTooLong) {
  BatchScheduler scheduler(kLayers, 0.1, 0, /*longest_step_seconds=*/7);
  scheduler.Admit(Spec(1, 100, 1));
  // Before anything is known of a layer, one at a time.
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{1, 0, 1}));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{1, 1, 2}));
  scheduler.Observe(Result(3));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{1, 2, 4}));
  scheduler.Observe(Result(3));
  scheduler.Observe(Result(8));  // longer than that: it has to run some time
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{1, 4, 5}));
  scheduler.Retire(1);
  scheduler.Observe(Result(8));
  scheduler.Admit(Spec(2, 1, 1));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{2, 0, kLayers}));
}

TEST(BatchScheduler, SlicesFitTheStallTarget) {
  BatchScheduler scheduler(kLayers, 0.1);
  scheduler.Admit(Spec(1, 100, 50));
  scheduler.MakePlan();
  scheduler.Observe(Result(0.03));
  scheduler.Admit(Spec(2, 100, 50));
  // Three layers of 0.03 s fit 0.1 s.
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{2, 0, 3}));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{2, 3, 6}));
  // Layers were slower than thought: fewer from now on.
  scheduler.Observe(Result(0.06));
  const StepPlan plan = scheduler.MakePlan();
  EXPECT_THAT(Slices(plan), ElementsAre(Slice{2, 6, 7}));
  EXPECT_THAT(plan.decode, ElementsAre(1));
}

TEST(BatchScheduler, ALongerPromptIsThoughtSlower) {
  BatchScheduler scheduler(kLayers, 0.1);
  scheduler.Admit(Spec(1, 100, 50));
  scheduler.MakePlan();
  scheduler.Observe(Result(0.01));
  scheduler.Admit(Spec(2, 200, 50));
  // At most four times as slow a layer.
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{2, 0, 2}));
}

TEST(BatchScheduler, EvenALayerOverTheTargetRunsSomeTime) {
  BatchScheduler scheduler(kLayers, 0.1);
  scheduler.Admit(Spec(1, 10, 50));
  scheduler.MakePlan();
  scheduler.Observe(Result(0.5));
  scheduler.Admit(Spec(2, 10, 50));
  for (int i = 0; i < kLayers; ++i) {
    EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{2, i, i + 1}));
  }
}

// The last layer of a prompt overran the target: nothing is left for the next.
TEST(BatchScheduler, AnOverrunLeavesNothingForTheNextPrompt) {
  BatchScheduler scheduler(1, 0.1);
  scheduler.Admit(Spec(1, 10, 50));
  scheduler.MakePlan();
  scheduler.Observe(Result(0.5));
  scheduler.Admit(Spec(2, 10, 50));
  scheduler.Admit(Spec(3, 10, 50));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{2, 0, 1}));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{3, 0, 1}));
}

TEST(BatchScheduler, ShortPromptsShareASlice) {
  BatchScheduler scheduler(kLayers, 0.1);
  scheduler.Admit(Spec(1, 100, 50));
  scheduler.MakePlan();
  scheduler.Observe(Result(0.004));
  for (int id : {2, 3, 4}) scheduler.Admit(Spec(id, 100, 50));
  // 25 layers in all: two whole prompts and half of a third.
  const StepPlan plan = scheduler.MakePlan();
  EXPECT_THAT(Slices(plan),
              ElementsAre(Slice{2, 0, 10}, Slice{3, 0, 10}, Slice{4, 0, 5}));
  EXPECT_THAT(plan.decode, ElementsAre(1, 2, 3));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{4, 5, 10}));
}

TEST(BatchScheduler, WhoLeavesBeforeItsPlanNeverExisted) {
  BatchScheduler scheduler(kLayers, 0.1);
  scheduler.Admit(Spec(1, 100, 50));
  scheduler.Retire(1);
  EXPECT_FALSE(scheduler.HasWork());
}

TEST(BatchScheduler, WhoLeavesAmidPrefillMakesRoom) {
  BatchScheduler scheduler(kLayers, 0.1);
  scheduler.Admit(Spec(1, 100, 50));
  scheduler.MakePlan();
  scheduler.Observe(Result(0.05));
  scheduler.Admit(Spec(2, 100, 50));
  scheduler.Admit(Spec(3, 100, 50));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{2, 0, 2}));
  scheduler.Retire(2);
  const StepPlan plan = scheduler.MakePlan();
  EXPECT_THAT(plan.retire, ElementsAre(2));
  EXPECT_THAT(Slices(plan), ElementsAre(Slice{3, 0, 2}));
}

TEST(BatchScheduler, PromptsThatWaitTogetherArePacked) {
  BatchScheduler scheduler(kLayers, 0.1, /*packed_tokens=*/250);
  for (int id : {1, 2, 3, 4}) scheduler.Admit(Spec(id, 100, 50));
  scheduler.Admit(Spec(5, 900, 50));  // more than a pack holds: alone
  scheduler.Admit(Spec(6, 10, 50));
  const StepPlan first = scheduler.MakePlan();
  ASSERT_EQ(first.prefill.size(), 1u);
  EXPECT_THAT(first.prefill[0].sequence_ids, ElementsAre(1, 2));
  EXPECT_THAT(first.decode, ElementsAre(1, 2));
  scheduler.Observe(Result(0.01));
  const StepPlan second = scheduler.MakePlan();
  ASSERT_EQ(second.prefill.size(), 1u);
  EXPECT_THAT(second.prefill[0].sequence_ids, ElementsAre(3, 4));
  EXPECT_THAT(second.decode, ElementsAre(1, 2, 3, 4));
  const StepPlan third = scheduler.MakePlan();
  EXPECT_THAT(third.prefill[0].sequence_ids, ElementsAre(5));
}

TEST(BatchScheduler, WhoLeavesAPackAmidPrefillStallsNobody) {
  BatchScheduler scheduler(kLayers, 0.1, /*packed_tokens=*/250);
  scheduler.Admit(Spec(1, 200, 50));
  scheduler.MakePlan();
  scheduler.Observe(Result(0.02));
  scheduler.Admit(Spec(2, 100, 50));
  scheduler.Admit(Spec(3, 100, 50));
  EXPECT_THAT(Slices(scheduler.MakePlan()), ElementsAre(Slice{2, 0, 5}));
  scheduler.Retire(2);
  const StepPlan plan = scheduler.MakePlan();
  EXPECT_THAT(Slices(plan), ElementsAre(Slice{3, 5, 10}));
  EXPECT_THAT(plan.decode, ElementsAre(1, 3));
}

}  // namespace
}  // namespace h2o
