#include "coordinator/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  std::vector<StreamEvent> events;
  Sequence sequence(
      Spec(), {}, nullptr,
      [&](StreamEvent e) { events.push_back(std::move(e)); }, 5);
  sequence.Start({12}, 1200, 2400, 6);
  for (int i = 0; i < 10; ++i) {
    sequence.Accept(
        {1, 70 + i, i == 9 ? FinishReason::kLength : FinishReason::kNone}, {},
        {}, 7 + i);
  }
  ASSERT_EQ(events.size(), 10u);
  EXPECT_FALSE(events[8].done);
  ASSERT_TRUE(events[9].done);
  EXPECT_EQ(events[9].finish, FinishReason::kLength);
  const Usage& usage = events[9].usage;
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
  Sequence sequence(
      Spec(), {}, nullptr, [](StreamEvent) {}, 0);
  EXPECT_TRUE(sequence.tokens().empty());
  sequence.Start({12}, 1200, 2400, 1);
  for (int32_t token : {9, 4, 9}) {
    sequence.Accept({1, token, FinishReason::kNone}, {}, {}, 2);
  }
  EXPECT_EQ(sequence.tokens(), (std::vector<int32_t>{9, 4, 9}));
}

TEST(Sequence, LogitsThatAreNotFiniteEndItWithThePosition) {
  std::vector<StreamEvent> events;
  Sequence sequence(
      Spec(), {}, nullptr,
      [&](StreamEvent e) { events.push_back(std::move(e)); }, 0);
  sequence.Start({12}, 1200, 2400, 1);
  sequence.Accept({1, 70, FinishReason::kNone}, {}, {}, 2);
  sequence.Accept({1, 0, FinishReason::kNonFinite}, {}, {}, 3);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(events[1].done);
  EXPECT_TRUE(events[1].tokens.empty());
  EXPECT_EQ(events[1].status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(events[1].status.message()),
              ::testing::HasSubstr("logits at position 50 are not finite"));
  EXPECT_EQ(events[1].usage.completion_tokens, 1);
  EXPECT_EQ(sequence.state(), Sequence::State::kDone);
}

TEST(Sequence, FailsOnce) {
  int events = 0;
  Sequence sequence(
      Spec(), {}, nullptr, [&](StreamEvent) { ++events; }, 0);
  sequence.Fail(absl::CancelledError("gone"), 1);
  sequence.Fail(absl::CancelledError("again"), 2);
  EXPECT_EQ(events, 1);
  EXPECT_EQ(sequence.state(), Sequence::State::kDone);
}

}  // namespace
}  // namespace h2o
