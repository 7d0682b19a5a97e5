// Tests stop strings, and the events and usage of one sequence.
#include "coordinator/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

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
    if (match.stop != nullptr) {
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
        7 + i);
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
    sequence.Accept({1, token, FinishReason::kNone}, {}, 2);
  }
  EXPECT_EQ(sequence.tokens(), (std::vector<int32_t>{9, 4, 9}));
}

const Tokenizer* Demo() {
  static const auto tokenizer =
      Tokenizer::Load("models/opt-demo", 8192).value();
  return tokenizer.get();
}

// The events of an answer that would be `text`, until it is done.
std::vector<StreamEvent> EventsOf(const std::string& text, AnswerForm form,
                                  int min_tokens = 0) {
  Sequence sequence(1, true, std::move(form), Demo(), nullptr, 0);
  SequenceSpec spec = Spec();
  spec.min_tokens = min_tokens;
  EXPECT_TRUE(sequence.SetSpec(std::move(spec)).ok());
  sequence.Start(1, 1, 1);
  const std::vector<int32_t> tokens = Demo()->Encode(text, false).value();
  std::vector<StreamEvent> events;
  for (const int32_t token : tokens) {
    events.push_back(*sequence.Accept({1, token, FinishReason::kNone}, {}, 2));
    if (events.back().done) break;
  }
  return events;
}

std::string TextOf(const std::vector<StreamEvent>& events) {
  std::string text;
  for (const StreamEvent& event : events) text += event.text;
  return text;
}

TEST(Sequence, AStopStringEndsIt) {
  const std::string text = "one two three four";
  std::vector<StreamEvent> events = EventsOf(text, {.stops = {"x", "two"}});
  EXPECT_EQ(TextOf(events), "one ");
  EXPECT_EQ(events.back().stop_string, "two");
  EXPECT_EQ(events.back().finish, FinishReason::kStop);
  events = EventsOf(text, {.stops = {"two"}, .include_stop = true});
  EXPECT_EQ(TextOf(events), "one two");
  // Of two that begin at the same place the first that was given.
  events = EventsOf(text, {.stops = {"two t", "two"}});
  EXPECT_EQ(events.back().stop_string, "two");
}

TEST(Sequence, NothingEndsItBeforeItHasItsLeastTokens) {
  const std::string text = "one two one two";
  const AnswerForm form = {.stops = {"two"}};
  const size_t first = EventsOf(text, form).size();
  const std::vector<StreamEvent> events =
      EventsOf(text, form, static_cast<int>(first));
  EXPECT_EQ(TextOf(events), "one two one ");
  EXPECT_TRUE(events.back().done);
}

TEST(Sequence, ReportsWhatItsFormAsksFor) {
  SequenceSpec spec = Spec();
  spec.prompt = {3, 4};
  spec.sampling.seed = 8;
  spec.stop_tokens = {71};
  spec.top_logprobs = 0;
  spec.prompt_logprobs = true;
  const Logprobs of_prompt = {{4, -1}, {}}, first = {{70, -2}, {}};
  Sequence sequence(1, false, {.logprobs = true, .report_prompt = true},
                    nullptr, nullptr, 0);
  ASSERT_TRUE(sequence.SetSpec(spec).ok());
  sequence.Start(1, 1, 1);
  StreamEvent event =
      *sequence.Accept({1, 70, FinishReason::kNone},
                       {.logprobs = {{1, 1, {of_prompt}}, {1, 2, {first}}}}, 2);
  EXPECT_EQ(event.seed, 8u);
  EXPECT_EQ(event.prompt, spec.prompt);
  EXPECT_EQ(event.prompt_logprobs, (std::vector<Logprobs>{{}, of_prompt}));
  EXPECT_EQ(event.logprobs, std::vector<Logprobs>{first});
  event = *sequence.Accept({1, 71, FinishReason::kStop}, {}, 3);
  EXPECT_TRUE(event.prompt.empty());
  EXPECT_EQ(event.stop_token, 71);
}

// Its prompt is reported with a token that the client has already.
TEST(Sequence, LogprobsOfThePromptComeWithTheFirstNewToken) {
  SequenceSpec spec = Spec();
  spec.prompt = {3, 4};
  spec.top_logprobs = 0;
  spec.prompt_logprobs = true;
  const Logprobs of_prompt = {{4, -1}, {}}, given = {{70, -2}, {}},
                 next = {{71, -3}, {}};
  Sequence sequence(1, false, {.logprobs = true}, nullptr, nullptr, 0);
  ASSERT_TRUE(sequence.SetSpec(spec, {70}).ok());
  sequence.Start(1, 1, 1);
  EXPECT_FALSE(
      sequence.Accept({1, 70, FinishReason::kNone},
                      {.logprobs = {{1, 1, {of_prompt}}, {1, 2, {given}}}}, 2));
  const StreamEvent event = *sequence.Accept({1, 71, FinishReason::kNone},
                                             {.logprobs = {{1, 3, {next}}}}, 3);
  EXPECT_EQ(event.prompt_logprobs, (std::vector<Logprobs>{{}, of_prompt}));
  EXPECT_EQ(event.logprobs, std::vector<Logprobs>{next});
}

TEST(Sequence, LogitsThatAreNotFiniteEndItWithThePosition) {
  Sequence sequence(1, false, {}, nullptr, nullptr, 0);
  ASSERT_TRUE(sequence.SetSpec(Spec()).ok());
  sequence.Start(1200, 2400, 1);
  EXPECT_FALSE(sequence.Accept({1, 70, FinishReason::kNone}, {}, 2)->done);
  const StreamEvent last =
      *sequence.Accept({1, 0, FinishReason::kNonFinite}, {}, 3);
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
