// Tests stop strings, and the events and usage of one sequence.
#include "coordinator/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/loaded_rank.h"
#include "tests/model/small_config.h"

namespace h2o {
namespace {

std::string Feed(StopMatcher* matcher, std::initializer_list<const char*> parts,
                 bool* stopped) {
  std::string shown;
  *stopped = false;
  for (const char* part : parts) {
    const StopMatcher::Match match = matcher->Push(part);
    shown += match.text;
    if (match.stopped) {
      *stopped = true;
      return shown;
    }
  }
  return shown + matcher->Finish();
}

TEST(StopMatcher, CutsBeforeTheEarliestStop) {
  bool stopped;
  StopMatcher one({"END", "ND"});
  EXPECT_EQ(Feed(&one, {"the EN", "D of it"}, &stopped), "the ");
  EXPECT_TRUE(stopped);
  StopMatcher two({"zzz", "of"});
  EXPECT_EQ(Feed(&two, {"the EN", "D of it"}, &stopped), "the END ");
  EXPECT_TRUE(stopped);
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBeginAStop) {
  StopMatcher matcher({"abcd"});
  EXPECT_EQ(matcher.Push("xxab").text, "xx");
  EXPECT_EQ(matcher.Push("c").text, "");
  EXPECT_EQ(matcher.Push("x").text, "abcx");
  EXPECT_EQ(matcher.Push("ababc").text, "ab");
  EXPECT_EQ(matcher.Finish(), "abc");
}

TEST(StopMatcher, WithoutStopsNothingIsHeld) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("anything").text, "anything");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcher, OverlappingBeginnings) {
  bool stopped;
  StopMatcher matcher({"aab"});
  EXPECT_EQ(Feed(&matcher, {"a", "a", "a", "b", "c"}, &stopped), "a");
  EXPECT_TRUE(stopped);
}

SequenceSpec Spec() {
  SequenceSpec spec;
  spec.id = 1;
  spec.prompt.assign(50, 3);
  spec.max_tokens = 10;
  spec.policy.slots = {SlotsFor(KvPolicyName::kH2o, 40)};
  return spec;
}

TEST(Sequence, UsageSaysWhatTheCacheHeld) {
  Sequence sequence(1, false, {}, nullptr, nullptr, 5);
  ASSERT_TRUE(sequence.SetSpec(Spec()).ok());
  sequence.Start(1200, 2400, 6);
  StreamEvent last;
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(last.done);
    last = *sequence.Accept(
        {1, 70 + i, i == 9 ? FinishReason::kLength : FinishReason::kNone}, {},
        {}, 7 + i);
  }
  ASSERT_TRUE(last.done);
  EXPECT_EQ(last.finish, FinishReason::kLength);
  const Usage& usage = last.usage;
  EXPECT_EQ(usage.prompt_tokens, 50);
  EXPECT_EQ(usage.completion_tokens, 10);
  EXPECT_EQ(usage.kv_slots_held, 40);
  EXPECT_EQ(usage.tokens_evicted, 19);
  EXPECT_EQ(usage.kv_bytes, 1200);
  EXPECT_EQ(usage.kv_bytes_full, 2400);
  EXPECT_EQ(usage.queue_seconds, 1);
  EXPECT_EQ(usage.prefill_seconds, 1);
  EXPECT_EQ(usage.decode_seconds, 9);
}

TEST(Sequence, KeepsTheTokensThatItStreamed) {
  Sequence sequence(1, false, {}, nullptr, nullptr, 0);
  ASSERT_TRUE(sequence.SetSpec(Spec()).ok());
  EXPECT_TRUE(sequence.tokens().empty());
  sequence.Start(1200, 2400, 1);
  for (int32_t token : {9, 4, 9}) {
    sequence.Accept({1, token, FinishReason::kNone}, {}, {}, 2);
  }
  EXPECT_EQ(sequence.tokens(), (std::vector<int32_t>{9, 4, 9}));
}

TEST(Sequence, LogitsThatAreNotFiniteEndItWithThePosition) {
  Sequence sequence(1, false, {}, nullptr, nullptr, 0);
  ASSERT_TRUE(sequence.SetSpec(Spec()).ok());
  sequence.Start(1200, 2400, 1);
  EXPECT_FALSE(sequence.Accept({1, 70, FinishReason::kNone}, {}, {}, 2)->done);
  const StreamEvent last =
      *sequence.Accept({1, 0, FinishReason::kNonFinite}, {}, {}, 3);
  EXPECT_TRUE(last.done);
  EXPECT_TRUE(last.tokens.empty());
  EXPECT_EQ(last.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(last.status.message()),
              ::testing::HasSubstr("logits at position 50 are not finite"));
  EXPECT_EQ(last.usage.completion_tokens, 1);
  EXPECT_EQ(sequence.state(), Sequence::State::kDone);
}

TEST(Sequence, FailsBeforeAndAfterItsTextIsEncoded) {
  Sequence encoding(1, true, {}, nullptr, nullptr, 0);
  StreamEvent last = encoding.Fail(absl::CancelledError("gone"), 3);
  EXPECT_TRUE(last.done);
  EXPECT_EQ(last.status, absl::CancelledError("gone"));
  EXPECT_EQ(last.usage.queue_seconds, 3);
  EXPECT_EQ(encoding.state(), Sequence::State::kDone);

  Sequence queued(2, false, {}, nullptr, nullptr, 0);
  ASSERT_TRUE(queued.SetSpec(Spec()).ok());
  EXPECT_EQ(queued.spec().id, 2u);
  last = queued.Fail(absl::CancelledError("gone"), 3);
  EXPECT_EQ(last.usage.prompt_tokens, 50);
}

TEST(Sequence, ItsChargeIsComputedOnceForEachGroup) {
  const RankInfo rank = LoadedRank(SmallConfig(), 1000);
  const Admission admission(GroupInfo{.ranks = {rank, rank}});
  Sequence sequence(1, false, {}, nullptr, nullptr, 0);
  ASSERT_TRUE(sequence.SetSpec(Spec()).ok());
  const SlabCharge* charge = &sequence.ChargeIn(1, admission);
  EXPECT_EQ(*charge,
            admission.ChargeOf(Spec().policy, sequence.max_stored_tokens()));
  EXPECT_EQ(&sequence.ChargeIn(1, admission), charge);
}

}  // namespace
}  // namespace h2o
