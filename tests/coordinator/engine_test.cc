// Tests the Engine with a fake group: streams, refusals, queue, cancellation,
// lost groups, drain.
#include "coordinator/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <numeric>
#include <optional>
#include <string>
#include <thread>

#include "api/refusal.h"
#include "tests/coordinator/fake_group.h"
#include "tests/worker/tiny_model.h"

namespace h2o {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kMostInFlight = WorkerGroup::kMaxPlansInFlight;

class FakeClock final : public Clock {
 public:
  double Now() const override { return now.load(); }
  std::atomic<double> now{100};
};

// One request's stream, to be waited for.
class Stream {
 public:
  EventCallback Callback() {
    asked_ = true;
    return [this](StreamEvent event) {
      Monitor::Lock lock(monitor_);
      EXPECT_FALSE(done_) << "an event after the last";
      tokens_.insert(tokens_.end(), event.tokens.begin(), event.tokens.end());
      done_ = event.done;
      last_ = std::move(event);
    };
  }
  StreamEvent Wait() {
    Monitor::Lock lock(monitor_);
    EXPECT_TRUE(lock.AwaitFor(30, [this] { return done_; }));
    return last_;
  }
  void WaitForTokens(size_t n) {
    Monitor::Lock lock(monitor_);
    EXPECT_TRUE(lock.AwaitFor(30, [&] { return tokens_.size() >= n; }));
  }
  bool done() {
    Monitor::Lock lock(monitor_);
    return done_;
  }
  bool asked() const { return asked_; }
  std::vector<int32_t> tokens() {
    Monitor::Lock lock(monitor_);
    return tokens_;
  }

 private:
  Monitor monitor_;
  std::vector<int32_t> tokens_;
  StreamEvent last_;
  bool done_ = false;
  std::atomic<bool> asked_ = false;
};

class EngineTest : public ::testing::Test {
 protected:
  void Start(EngineOptions options = {},
             const std::vector<int64_t>& pages = {1000}, int groups = 1) {
    engine_ =
        Engine::Create(options, config_, tokenizer_.get(), &clock_).value();
    for (int i = 0; i < groups; ++i) AddGroup(pages);
  }
  // For texts: call it before Start.
  void UseTokenizer() {
    config_.vocab_size = 8192;
    tokenizer_ = Tokenizer::Load("models/opt-demo", 8192).value();
  }
  void AddGroup(const std::vector<int64_t>& pages,
                int allowed_steps = 1 << 30) {
    states_.push_back(std::make_shared<FakeGroupState>());
    states_.back()->allowed_steps = allowed_steps;
    engine_->AddGroup(
        std::make_unique<FakeGroup>(config_, pages, states_.back()),
        {.on_lost =
             [this](const absl::Status& status, const StepHistory& steps) {
               Monitor::Lock lock(monitor_);
               lost_.push_back(status);
               known_steps_.push_back(steps.Records().size());
             },
         .on_non_finite = nullptr});
  }
  static Request Ask(int prompt, int max_tokens, int budget = 0) {
    Request request;
    request.tokens.assign(prompt, 5);
    request.max_tokens = max_tokens;
    if (budget > 0) {
      request.kv_policy = KvPolicyRequest{KvPolicyName::kH2o, budget};
    }
    return request;
  }
  absl::StatusOr<uint64_t> Submit(const Request& request, Stream* stream) {
    return engine_->Submit(request, stream->Callback());
  }
  absl::Status Refusal(const Request& request) {
    Stream stream;
    return Submit(request, &stream).status();
  }

  static Request AskText(std::string text) {
    Request request;
    request.has_text = true;
    request.text = std::move(text);
    request.max_tokens = 3;
    return request;
  }

  FakeClock clock_;
  ModelConfig config_ = TinyConfig();
  std::unique_ptr<Tokenizer> tokenizer_;
  Monitor monitor_;
  std::vector<absl::Status> lost_;
  std::vector<size_t> known_steps_;
  std::vector<std::shared_ptr<FakeGroupState>> states_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, StreamsEveryTokenInOrder) {
  Start();
  Stream stream;
  ASSERT_TRUE(Submit(Ask(10, 5), &stream).ok());
  const StreamEvent last = stream.Wait();
  EXPECT_EQ(stream.tokens(), (std::vector<int32_t>{100, 101, 102, 103, 104}));
  EXPECT_EQ(last.finish, FinishReason::kLength);
  EXPECT_EQ(last.usage.completion_tokens, 5);
}

TEST_F(EngineTest, RefusesBadRequestsWithTheValue) {
  Start();
  const auto expect = [&](const Request& request, const char* what) {
    const absl::Status status = Refusal(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(what));
  };
  expect(Ask(0, 5), "no tokens");
  expect(Ask(10, 0), "max_tokens is 0");
  expect(Ask(200, 58), "257");
  expect(Ask(300, 1), "300");
  Request stranger = Ask(3, 5);
  stranger.tokens[1] = 150;
  expect(stranger, "150");
  stranger.tokens[1] = -1;
  expect(stranger, "-1");
  Request text;
  text.has_text = true;
  expect(text, "tokenizer");
  Request stop = Ask(3, 5);
  stop.stop = {"x"};
  expect(stop, "stop");
  Request policy = Ask(3, 5);
  policy.kv_policy = KvPolicyRequest{KvPolicyName::kFull, 40};
  expect(policy, "full");
  EXPECT_TRUE(engine_->Check(Ask(200, 57)).ok());
  EXPECT_EQ(engine_->counters().queued, 0);
}

TEST_F(EngineTest, MaxTokensDefaultsToWhatFits) {
  Start();
  Stream shorter, normal;
  Request request = Ask(250, 1);
  request.max_tokens.reset();
  ASSERT_TRUE(Submit(request, &shorter).ok());
  shorter.Wait();
  EXPECT_EQ(shorter.tokens().size(), 7u);
  request.tokens.resize(3);
  ASSERT_TRUE(Submit(request, &normal).ok());
  normal.Wait();
  EXPECT_EQ(normal.tokens().size(), 128u);
}

TEST_F(EngineTest, WhatCanNeverFitIsRefusedAtOnce) {
  Start({}, {17});  // a sequence takes 18 pages a 32 slots
  const absl::Status status = Refusal(Ask(10, 5));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("18"));
}

TEST_F(EngineTest, WhatDoesNotFitNowWaitsAndThenRuns) {
  Start({}, {40});  // two sequences of 18 pages
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(5);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  EXPECT_EQ(engine_->counters().running, 2);
  EXPECT_EQ(engine_->counters().queued, 3);
  states_[0]->Allow(1 << 30);
  for (Stream& s : streams) {
    EXPECT_EQ(s.Wait().finish, FinishReason::kLength);
    EXPECT_EQ(s.tokens().size(), 5u);
  }
  const Engine::Counters counters = engine_->counters();
  EXPECT_LE(counters.peak_slabs_held, 40);
  Monitor::Lock lock(states_[0]->monitor);
  EXPECT_LE(states_[0]->peak_slabs, 40);
  // Nobody was sent away to come back: everyone was admitted once.
  std::vector<uint64_t> admitted;
  for (const StepPlan& plan : states_[0]->plans) {
    for (const SequenceSpec& spec : plan.admit) admitted.push_back(spec.id);
  }
  EXPECT_THAT(admitted, ElementsAre(1, 2, 3, 4, 5));
}

TEST_F(EngineTest, AFullQueueRefuses) {
  EngineOptions options;
  options.max_queue = 2;
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(3);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  EXPECT_EQ(Refusal(Ask(10, 5)).code(), absl::StatusCode::kResourceExhausted);
  states_[0]->Allow(1 << 30);
  for (Stream& s : streams) s.Wait();
}

TEST_F(EngineTest, WhoWaitsTooLongIsRefused) {
  EngineOptions options;
  options.max_queue_seconds = 10;
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  Stream running, waiting;
  ASSERT_TRUE(Submit(Ask(10, 5), &running).ok());
  ASSERT_TRUE(Submit(Ask(10, 5), &waiting).ok());
  clock_.now = 109;
  engine_->Tick();
  EXPECT_FALSE(waiting.done());
  clock_.now = 111;
  engine_->Tick();
  EXPECT_EQ(waiting.Wait().status.code(), absl::StatusCode::kResourceExhausted);
  states_[0]->Allow(1 << 30);
  EXPECT_TRUE(running.Wait().status.ok());
}

TEST_F(EngineTest, ACancelledStreamFreesItsPagesWithinTwoSteps) {
  Start({}, {72});  // the first takes all of it, and so does the next
  states_[0]->Allow(-(1 << 30));
  Stream cancelled, next;
  const uint64_t id = Submit(Ask(10, 100), &cancelled).value();
  ASSERT_TRUE(Submit(Ask(100, 3), &next).ok());
  states_[0]->Allow(3);
  cancelled.WaitForTokens(4);
  engine_->Cancel(id, absl::CancelledError("the client left"));
  EXPECT_EQ(cancelled.Wait().status.code(), absl::StatusCode::kCancelled);
  const size_t sent = states_[0]->Plans().size();
  states_[0]->Allow(1 << 30);
  EXPECT_TRUE(next.Wait().status.ok());
  const std::vector<StepPlan> plans = states_[0]->Plans();
  size_t retired = 0;
  while (retired < plans.size() && plans[retired].retire.empty()) ++retired;
  EXPECT_LE(retired, sent + 1) << "later than the plan after those on the way";
  engine_->Cancel(id, absl::CancelledError("again"));  // no effect
}

TEST_F(EngineTest, AQueuedRequestCanBeCancelled) {
  EngineOptions options;
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  Stream running, waiting;
  ASSERT_TRUE(Submit(Ask(10, 5), &running).ok());
  const uint64_t id = Submit(Ask(10, 5), &waiting).value();
  engine_->Cancel(id, absl::DeadlineExceededError("too late"));
  EXPECT_EQ(waiting.Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
  states_[0]->Allow(1 << 30);
  EXPECT_TRUE(running.Wait().status.ok());
}

TEST_F(EngineTest, PlansRunOneAhead) {
  Start();
  states_[0]->Allow(-(1 << 30));
  Stream stream;
  ASSERT_TRUE(Submit(Ask(10, 50), &stream).ok());
  for (int i = 0; i < 1000 && states_[0]->Plans().size() < 2; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(states_[0]->Plans().size(), 2u);
  states_[0]->Allow(1 << 30);
  stream.Wait();
}

TEST_F(EngineTest, RequestsGoWhereMostPagesAreFree) {
  Start({}, {100}, 2);
  for (auto& state : states_) state->Allow(-(1 << 30));
  std::vector<Stream> streams(4);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  for (auto& state : states_) state->Allow(1 << 30);
  for (Stream& s : streams) s.Wait();
  for (auto& state : states_) {
    size_t admitted = 0;
    for (const StepPlan& plan : state->Plans()) admitted += plan.admit.size();
    EXPECT_EQ(admitted, 2u);
  }
}

TEST_F(EngineTest, ALostGroupEndsItsStreamsAndNoOthers) {
  Start({}, {100}, 2);
  for (auto& state : states_) state->Allow(-(1 << 30));
  std::vector<Stream> streams(2);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  states_[0]->Fail(absl::UnavailableError("rank 1 died"));
  const StreamEvent lost = streams[0].Wait();
  EXPECT_EQ(lost.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(lost.status.message(), HasSubstr("rank 1"));
  states_[1]->Allow(1 << 30);
  EXPECT_TRUE(streams[1].Wait().status.ok());
  EXPECT_EQ(engine_->num_groups(), 1);
  Monitor::Lock lock(monitor_);
  EXPECT_TRUE(lock.AwaitFor(30, [&] { return lost_.size() == 1; }));
}

class ReplayTest : public EngineTest,
                   public ::testing::WithParamInterface<ReplayMode> {
 protected:
  EngineOptions Replays() {
    EngineOptions options;
    options.replay = GetParam();
    options.replay_timeout_seconds = 20;
    return options;
  }
  // Starts `streams` of 40 tokens and loses the group after the first three.
  void LoseAfterThree(std::vector<Stream>* streams) {
    states_.back()->Allow(-(1 << 30));
    for (Stream& s : *streams) ASSERT_TRUE(Submit(Ask(10, 40), &s).ok());
    while (streams->back().tokens().size() < 3) states_.back()->Step();
    states_.back()->Fail(absl::UnavailableError("rank 1 died"));
    WaitForLost(1);
  }
  void WaitForGroups(int n) {
    for (int i = 0; i < 3000 && engine_->num_groups() != n; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(engine_->num_groups(), n);
  }
  void WaitForLost(size_t n) {
    engine_->Tick();
    Monitor::Lock lock(monitor_);
    EXPECT_TRUE(lock.AwaitFor(30, [&] { return lost_.size() == n; }));
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, ReplayTest,
                         ::testing::Values(ReplayMode::kExact,
                                           ReplayMode::kFast));

TEST_P(ReplayTest, StreamsGoOnWithTheNextGroup) {
  Start(Replays());
  std::vector<Stream> streams(3);
  LoseAfterThree(&streams);
  EXPECT_EQ(engine_->counters().replays, 3);
  EXPECT_EQ(engine_->counters().queued, 3);
  AddGroup({1000});
  for (Stream& s : streams) {
    const StreamEvent last = s.Wait();
    EXPECT_TRUE(last.status.ok()) << last.status;
    std::vector<int32_t> all(40);
    std::iota(all.begin(), all.end(), 100);
    EXPECT_EQ(s.tokens(), all);
    EXPECT_EQ(last.usage.replays, 1);
    EXPECT_EQ(last.usage.prompt_tokens, 10);
    EXPECT_EQ(last.usage.completion_tokens, 40);
  }
}

TEST_P(ReplayTest, AnotherGroupTakesOverAtOnce) {
  Start(Replays(), {1000}, 2);
  for (auto& state : states_) state->Allow(-(1 << 30));
  std::vector<Stream> streams(4);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  states_[0]->Fail(absl::UnavailableError("rank 0 died"));
  states_[1]->Allow(1 << 30);
  for (Stream& s : streams) EXPECT_TRUE(s.Wait().status.ok());
}

// The prompt of a replayed request comes before prompts that never ran.
TEST_P(ReplayTest, ReplayedRequestsComeFirst) {
  EngineOptions options = Replays();
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(2);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  states_[0]->Fail(absl::UnavailableError("rank 0 died"));
  WaitForLost(1);
  AddGroup({1000});
  for (Stream& s : streams) EXPECT_TRUE(s.Wait().status.ok());
  std::vector<uint64_t> admitted;
  for (const StepPlan& plan : states_[1]->Plans()) {
    for (const SequenceSpec& spec : plan.admit) admitted.push_back(spec.id);
  }
  EXPECT_THAT(admitted, ElementsAre(1, 2));
}

// A group that leaves runs nothing new, and goes when its requests have ended.
TEST_P(ReplayTest, AGroupThatLeavesFinishesItsRequests) {
  Start(Replays(), {1000}, 2);
  states_[0]->Allow(-(1 << 30));
  states_[1]->Allow(-(1 << 30));
  std::vector<Stream> streams(4);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  states_[0]->Leave();
  engine_->Tick();
  EXPECT_TRUE(engine_->Ready().ok());
  Stream late;
  ASSERT_TRUE(Submit(Ask(10, 5), &late).ok());
  EXPECT_EQ(engine_->groups()[0].running, 2);
  EXPECT_EQ(engine_->groups()[1].running, 3);
  EXPECT_EQ(engine_->groups()[0].leaving, "rank 0 was told to stop");
  states_[0]->Allow(1 << 30);
  states_[1]->Allow(1 << 30);
  for (Stream& s : streams) {
    EXPECT_TRUE(s.Wait().status.ok());
    EXPECT_EQ(s.tokens().size(), 5);
  }
  EXPECT_TRUE(late.Wait().status.ok());
  EXPECT_EQ(engine_->num_groups(), 2) << "a whole job may be told to stop";
  clock_.now = clock_.now + 1;
  engine_->Tick();
  WaitForGroups(1);
  EXPECT_TRUE(states_[0]->Released());
  EXPECT_TRUE(lost_.empty());
  EXPECT_EQ(engine_->counters().replays, 0);
}

TEST_P(ReplayTest, RequestsMoveFromAGroupThatDrainsForTooLong) {
  Start(Replays(), {1000}, 2);
  for (auto& state : states_) state->Allow(-(1 << 30));
  std::vector<Stream> streams(4);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 40), &s).ok());
  for (int i = 0; i < 5; ++i) states_[0]->Step();
  states_[0]->Leave();
  engine_->Tick();
  clock_.now = clock_.now + 19;
  engine_->Tick();
  EXPECT_EQ(engine_->num_groups(), 2);
  clock_.now = clock_.now + 1;
  engine_->Tick();
  states_[0]->Allow(kMostInFlight);  // plans that are under way end first
  WaitForGroups(1);
  EXPECT_TRUE(states_[0]->Released());
  states_[1]->Allow(1 << 30);
  std::vector<int32_t> all(40);
  std::iota(all.begin(), all.end(), 100);
  int moved = 0;
  for (Stream& s : streams) {
    const StreamEvent last = s.Wait();
    EXPECT_TRUE(last.status.ok()) << last.status;
    EXPECT_EQ(s.tokens(), all);
    moved += last.usage.replays;
  }
  EXPECT_EQ(moved, 2);
}

// Moves are no losses: a request may move as often as groups drain.
TEST_P(ReplayTest, AMoveIsNotHeldAgainstARequest) {
  Start(Replays(), {1000});
  states_[0]->Allow(-(1 << 30));
  Stream stream;
  ASSERT_TRUE(Submit(Ask(10, 40), &stream).ok());
  for (int group = 0; group < 3; ++group) {
    states_.back()->WaitForAPlan();  // the request is the group's
    states_.back()->Leave();
    engine_->Tick();
    EXPECT_FALSE(engine_->Ready().ok());
    clock_.now = clock_.now + 20;
    engine_->Tick();
    states_.back()->Allow(kMostInFlight);
    WaitForGroups(0);
    AddGroup({1000}, /*allowed_steps=*/group < 2 ? 0 : 1 << 30);
  }
  const StreamEvent last = stream.Wait();
  EXPECT_TRUE(last.status.ok()) << last.status;
  EXPECT_EQ(last.usage.replays, 3);
}

// The workers of a job that is told to stop as a whole stay for its requests.
TEST_P(ReplayTest, GroupsStayWhileTheEngineDrains) {
  EngineOptions options = Replays();
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(3);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  states_[0]->Leave();
  engine_->Tick();
  std::thread drain([this] { engine_->Drain(30); });
  while (engine_->Submit(Ask(10, 5), nullptr).ok()) std::this_thread::yield();
  clock_.now = clock_.now + 100;
  engine_->Tick();
  states_[0]->Allow(1 << 30);
  for (Stream& s : streams) EXPECT_TRUE(s.Wait().status.ok());
  drain.join();
}

TEST_P(ReplayTest, ARequestThatLosesTwoGroupsIsQuarantined) {
  Start(Replays());
  std::vector<Stream> streams(1);
  LoseAfterThree(&streams);
  AddGroup({1000}, /*allowed_steps=*/0);
  states_[1]->Fail(absl::UnavailableError("rank 0 died"));
  engine_->Tick();
  const StreamEvent last = streams[0].Wait();
  EXPECT_EQ(last.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(last.status.message(), HasSubstr("quarantined"));
  EXPECT_THAT(last.status.message(), HasSubstr("rank 0 died"));
  EXPECT_EQ(engine_->counters().quarantined, 1);
}

TEST_P(ReplayTest, ARequestWaitsForAGroupUntilTheTimeout) {
  Start(Replays());
  std::vector<Stream> streams(2);
  LoseAfterThree(&streams);
  clock_.now = clock_.now + 19;
  engine_->Tick();
  EXPECT_FALSE(streams[0].done());
  clock_.now = clock_.now + 1;
  engine_->Tick();
  for (Stream& s : streams) {
    const absl::Status status = s.Wait().status;
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(status.message(), HasSubstr("rank 1 died"));
  }
}

TEST_P(ReplayTest, ARequestThatWaitsForAGroupCanBeCancelled) {
  Start(Replays());
  std::vector<Stream> streams(1);
  LoseAfterThree(&streams);
  engine_->Cancel(1, absl::CancelledError("gone"));
  EXPECT_EQ(streams[0].Wait().status, absl::CancelledError("gone"));
  EXPECT_EQ(engine_->counters().queued, 0);
}

// What only the lost group could hold waits, and blocks nobody meanwhile.
TEST_P(ReplayTest, StrandedRequestsBlockNobody) {
  Start(Replays());
  AddGroup({18});
  for (auto& state : states_) state->Allow(-(1 << 30));
  std::vector<Stream> large(60);
  for (Stream& s : large) ASSERT_TRUE(Submit(Ask(40, 5), &s).ok());
  Stream small;
  ASSERT_TRUE(Submit(Ask(10, 5), &small).ok());
  states_[1]->Allow(1 << 30);
  states_[0]->Fail(absl::UnavailableError("rank 0 died"));
  engine_->Tick();
  EXPECT_EQ(small.Wait().finish, FinishReason::kLength);
  AddGroup({1000});
  for (Stream& s : large) EXPECT_TRUE(s.Wait().status.ok());
}

// A client that lost its server resumes with the tokens that it has.
TEST_F(EngineTest, AnAnswerGoesOnBehindGeneratedTokens) {
  Start();
  Request request = Ask(10, 5);
  request.generated = {100, 101};
  Stream stream;
  ASSERT_TRUE(Submit(request, &stream).ok());
  const StreamEvent last = stream.Wait();
  EXPECT_THAT(stream.tokens(), ElementsAre(102, 103, 104));
  EXPECT_EQ(last.usage.completion_tokens, 5);
  const auto refused = [&](std::vector<int32_t> generated, const char* says) {
    request.generated = std::move(generated);
    const absl::Status status = Refusal(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(says));
  };
  refused({100, 101, 102, 103, 104}, "leaves none to generate");
  refused({100, 2}, "generated[1] is 2");
  refused({100, 150}, "generated token 150");
  refused({-1}, "generated[0] is -1");
  request.sampling.temperature = 1;
  refused({100}, "without the seed");
}

TEST_F(EngineTest, AGroupLostWhileIdleCostsNoRequest) {
  Start({}, {100}, 2);
  states_[0]->Fail(absl::UnavailableError("rank 0 died"));
  std::vector<Stream> streams(3);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  for (Stream& s : streams) EXPECT_TRUE(s.Wait().status.ok());
  engine_->Tick();
  Monitor::Lock lock(monitor_);
  EXPECT_TRUE(lock.AwaitFor(30, [&] { return lost_.size() == 1; }));
  EXPECT_EQ(engine_->num_groups(), 1);
}

// Of unequal groups the larger is lost: what only it could hold would wait for
// ever, and with it all that stands behind.
TEST_F(EngineTest, WhatOnlyALostGroupCouldHoldDoesNotWait) {
  Start({}, {1000});
  AddGroup({18});
  for (auto& state : states_) state->Allow(-(1 << 30));
  std::vector<Stream> large(60);  // more than 1,000 pages hold at once
  for (Stream& s : large) ASSERT_TRUE(Submit(Ask(40, 5), &s).ok());
  EXPECT_GT(engine_->counters().queued, 0);
  Stream small;
  ASSERT_TRUE(Submit(Ask(10, 5), &small).ok());
  states_[1]->Allow(1 << 30);
  states_[0]->Fail(absl::UnavailableError("rank 0 died"));
  engine_->Tick();
  for (Stream& s : large) {
    EXPECT_EQ(s.Wait().status, absl::UnavailableError("rank 0 died"));
  }
  EXPECT_EQ(small.Wait().finish, FinishReason::kLength);
  EXPECT_EQ(engine_->counters().queued, 0);
}

TEST_F(EngineTest, WithoutAGroupNothingIsTakenAndNothingHangs) {
  EngineOptions options;
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(3);
  for (Stream& s : streams) ASSERT_TRUE(Submit(Ask(10, 5), &s).ok());
  states_[0]->Fail(absl::UnavailableError("rank 0 died"));
  for (Stream& s : streams) {
    EXPECT_EQ(s.Wait().status.code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_EQ(Refusal(Ask(10, 5)).code(), absl::StatusCode::kUnavailable);
  AddGroup({1000});
  Stream again;
  ASSERT_TRUE(Submit(Ask(10, 5), &again).ok());
  EXPECT_TRUE(again.Wait().status.ok());
}

TEST_F(EngineTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  Start();
  states_[0]->Allow(-(1 << 30));
  Stream stream;
  ASSERT_TRUE(Submit(Ask(10, 5), &stream).ok());
  std::thread drain([&] { engine_->Drain(30); });
  absl::Status refusal;
  for (int i = 0; i < 1000 && !absl::IsUnavailable(refusal); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    refusal = engine_->Check(Ask(10, 5));
  }
  EXPECT_TRUE(absl::IsUnavailable(refusal));
  states_[0]->Allow(1 << 30);
  drain.join();
  EXPECT_TRUE(stream.Wait().status.ok());
}

TEST_F(EngineTest, DrainEndsWhatOutlastsTheGrace) {
  Start();
  states_[0]->Allow(-(1 << 30));
  Stream stream;
  ASSERT_TRUE(Submit(Ask(10, 5), &stream).ok());
  engine_->Drain(0.01);
  EXPECT_TRUE(absl::IsUnavailable(stream.Wait().status));
}

TEST_F(EngineTest, ManyThreadsSubmitAndCancel) {
  EngineOptions options;
  options.max_queue = 10000;
  Start(options, {100}, 2);
  constexpr int kThreads = 4, kEach = 50;
  std::vector<Stream> streams(kThreads * kEach);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        Stream& stream = streams[t * kEach + i];
        const uint64_t id = Submit(Ask(5, 20, 8), &stream).value();
        if (i % 3 == 0) engine_->Cancel(id, absl::CancelledError("left"));
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (Stream& s : streams) {
    const StreamEvent last = s.Wait();
    EXPECT_TRUE(last.status.ok() || absl::IsCancelled(last.status));
  }
  EXPECT_EQ(engine_->counters().slabs_held, 0);
  EXPECT_EQ(engine_->counters().finished, kThreads * kEach);
}

// A callback that blocks holds up the streams of its group, and nothing else.
TEST_F(EngineTest, ABlockedCallbackStopsNobodyElse) {
  Start({.max_queue_seconds = 10}, {100}, 2);
  Monitor monitor;
  bool entered = false, open = false;
  std::vector<StreamEvent> events;
  Request request = Ask(10, 5);
  const uint64_t id = engine_
                          ->Submit(request,
                                   [&](StreamEvent event) {
                                     Monitor::Lock lock(monitor);
                                     entered = true;
                                     lock.Await([&] { return open; });
                                     events.push_back(std::move(event));
                                   })
                          .value();
  {
    Monitor::Lock lock(monitor);
    ASSERT_TRUE(lock.AwaitFor(30, [&] { return entered; }));
  }
  // The other group has more free pages and goes on as ever.
  Stream other, cancelled;
  ASSERT_TRUE(Submit(Ask(10, 5), &other).ok());
  EXPECT_TRUE(other.Wait().status.ok());
  states_[1]->Allow(-(1 << 30));
  engine_->Cancel(Submit(Ask(10, 5), &cancelled).value(),
                  absl::CancelledError("left"));
  EXPECT_TRUE(absl::IsCancelled(cancelled.Wait().status));
  engine_->Cancel(id, absl::CancelledError("left"));
  engine_->Cancel(id, absl::CancelledError("no effect"));
  engine_->Tick();
  EXPECT_EQ(engine_->counters().running, 0);
  {
    Monitor::Lock lock(monitor);
    EXPECT_TRUE(events.empty());
    open = true;
  }
  states_[1]->Allow(1 << 30);
  engine_->Drain(30);  // returns when the last event was delivered
  Monitor::Lock lock(monitor);
  ASSERT_FALSE(events.empty());
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].done, i + 1 == events.size());
  }
  EXPECT_EQ(events.back().status, absl::CancelledError("left"));
}

TEST_F(EngineTest, ACallbackMayCallTheEngine) {
  Start();
  Stream second;
  Monitor monitor;
  absl::Status last;
  bool done = false;
  std::atomic<uint64_t> id = 0;
  states_[0]->Allow(-(1 << 30));
  id = engine_
           ->Submit(Ask(10, 50),
                    [&](const StreamEvent& event) {
                      if (event.done) {
                        Monitor::Lock lock(monitor);
                        last = event.status;
                        done = true;
                        return;
                      }
                      EXPECT_TRUE(engine_->Check(Ask(10, 5)).ok());
                      EXPECT_EQ(engine_->num_groups(), 1);
                      if (!second.asked()) {
                        EXPECT_TRUE(Submit(Ask(10, 5), &second).ok());
                      }
                      engine_->Tick();
                      engine_->Cancel(id, absl::CancelledError("by itself"));
                    })
           .value();
  states_[0]->Allow(1 << 30);
  EXPECT_TRUE(second.Wait().status.ok());
  Monitor::Lock lock(monitor);
  EXPECT_TRUE(lock.AwaitFor(30, [&] { return done; }));
  EXPECT_EQ(last, absl::CancelledError("by itself"));
}

// ---- admission and fairness

std::vector<uint64_t> Admitted(const std::vector<StepPlan>& plans) {
  std::vector<uint64_t> admitted;
  for (const StepPlan& plan : plans) {
    for (const SequenceSpec& spec : plan.admit) admitted.push_back(spec.id);
  }
  return admitted;
}

TEST_F(EngineTest, ARefusalTellsTheReasonAndWhenToAskAgain) {
  EngineOptions options;
  options.max_queue = 100;
  options.max_queue_tokens = 40;
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(4);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Submit(Ask(10, 5), &streams[i]).ok());
  }
  const absl::Status refused = Refusal(Ask(10, 5));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("of at most 40"));
  EXPECT_EQ(RefusalOf(refused), h2o::Refusal::kQueueTokens);
  EXPECT_EQ(RetryAfterSeconds(refused), 1) << "nothing has ended yet";
  EXPECT_TRUE(Submit(Ask(5, 5), &streams[3]).ok()) << "10 tokens";
  EXPECT_EQ(engine_->counters()
                .refused_for[static_cast<size_t>(h2o::Refusal::kQueueTokens)],
            1);
  states_[0]->Allow(1 << 30);
  for (Stream& s : streams) s.Wait();
  // The longest request passes an empty queue.
  Stream longest;
  ASSERT_TRUE(Submit(Ask(100, 50), &longest).ok());
  EXPECT_TRUE(longest.Wait().status.ok());
}

TEST_F(EngineTest, TheLimitsOfATenant) {
  EngineOptions options;
  options.max_sequences = 4;
  Start(options, {100});  // 18 pages a 32 tokens
  states_[0]->Allow(-(1 << 30));
  const auto row = std::make_shared<const Tenant>(
      Tenant{.name = "a", .max_waiting = 2, .max_running = 1});
  const auto small = std::make_shared<const Tenant>(
      Tenant{.name = "b", .max_kv_share = 0.2, .tokens_per_minute = 20});
  const auto of = [](const TenantRow& tenant, Request request) {
    request.tenant = tenant;
    return request;
  };
  std::vector<Stream> streams(5);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Submit(of(row, Ask(10, 5)), &streams[i]).ok());
  }
  EXPECT_EQ(engine_->counters().running, 1);
  EXPECT_THAT(engine_->CheckAdmission(of(row, Ask(10, 5)))->reason,
              HasSubstr("requests in the queue"));
  EXPECT_EQ(RefusalOf(Refusal(of(row, Ask(10, 5)))),
            h2o::Refusal::kTenantWaiting);
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(of(small, Ask(40, 5)))))
      << "36 pages of 20";
  ASSERT_TRUE(Submit(of(small, Ask(10, 5)), &streams[3]).ok());
  EXPECT_EQ(engine_->counters().running, 2);
  const absl::Status spent = Refusal(of(small, Ask(10, 5)));
  EXPECT_EQ(RefusalOf(spent), h2o::Refusal::kTenantTokens);
  EXPECT_EQ(RetryAfterSeconds(spent), 30) << "10 tokens of 20 a minute";
  clock_.now = clock_.now + 30;
  ASSERT_TRUE(Submit(of(small, Ask(10, 5)), &streams[4]).ok());
  EXPECT_EQ(engine_->counters().running, 2) << "18 pages of 20 are held";
  clock_.now = clock_.now + 45;
  EXPECT_THAT(engine_->CheckAdmission(of(small, Ask(10, 5)))->reason,
              HasSubstr("its limits allow no more"));
  states_[0]->Allow(1 << 30);
  for (Stream& s : streams) EXPECT_TRUE(s.Wait().status.ok());
  const std::vector<TenantStatus> tenants = engine_->tenants();
  ASSERT_EQ(tenants.size(), 2u);
  EXPECT_EQ(tenants[0].name, "a");
  EXPECT_EQ(tenants[0].tokens, 45);
  EXPECT_EQ(tenants[1].tokens, 30);
  EXPECT_EQ(tenants[1].running + tenants[1].pages + tenants[1].waiting, 0);
}

// A tenant that fills the queue does not lock out another.
TEST_F(EngineTest, AFullQueueTakesThoseWhoHaveLessThanTheirShare) {
  EngineOptions options;
  options.max_sequences = 1;
  options.max_queue = 4;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(7);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(Submit(Ask(10, 5), &streams[i]).ok());
  }
  EXPECT_EQ(RefusalOf(Refusal(Ask(10, 5))), h2o::Refusal::kQueueFull);
  Request other = Ask(10, 5);
  other.tenant = std::make_shared<const Tenant>(Tenant{.name = "other"});
  ASSERT_TRUE(Submit(other, &streams[5]).ok());
  ASSERT_TRUE(Submit(other, &streams[6]).ok());
  EXPECT_EQ(RefusalOf(Refusal(other)), h2o::Refusal::kQueueFull);
  states_[0]->Allow(1 << 30);
  for (Stream& s : streams) EXPECT_TRUE(s.Wait().status.ok());
  EXPECT_THAT(Admitted(states_[0]->Plans()), ElementsAre(1, 2, 6, 3, 7, 4, 5));
}

TEST_F(EngineTest, AnExpiredRequestNeverReachesAWorker) {
  EngineOptions options;
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  Request request = Ask(10, 50);
  request.timeout_seconds = 0;
  EXPECT_TRUE(absl::IsDeadlineExceeded(Refusal(request)));
  Stream running, waiting, next;
  request.timeout_seconds = 20;
  ASSERT_TRUE(Submit(request, &running).ok());
  request.timeout_seconds = 10;
  const uint64_t expired = Submit(request, &waiting).value();
  ASSERT_TRUE(Submit(Ask(10, 5), &next).ok());
  states_[0]->Allow(3);
  running.WaitForTokens(2);
  clock_.now = 110;
  engine_->Tick();
  EXPECT_TRUE(absl::IsDeadlineExceeded(waiting.Wait().status));
  EXPECT_FALSE(running.done());
  // In decode as well.
  clock_.now = 120;
  engine_->Tick();
  const StreamEvent last = running.Wait();
  EXPECT_TRUE(absl::IsDeadlineExceeded(last.status)) << last.status;
  EXPECT_GE(last.usage.completion_tokens, 2);
  states_[0]->Allow(1 << 30);
  EXPECT_TRUE(next.Wait().status.ok());
  EXPECT_THAT(Admitted(states_[0]->Plans()), Not(Contains(expired)));
  EXPECT_EQ(
      engine_->counters().ended_by[static_cast<size_t>(Outcome::kDeadline)], 3);
}

// Even before the Tick that ends it.
TEST_F(EngineTest, AnExpiredRequestIsNotPlaced) {
  EngineOptions options;
  options.max_sequences = 1;
  Start(options);
  states_[0]->Allow(-(1 << 30));
  Stream running, waiting;
  ASSERT_TRUE(Submit(Ask(10, 5), &running).ok());
  Request request = Ask(10, 5);
  request.timeout_seconds = 10;
  ASSERT_TRUE(Submit(request, &waiting).ok());
  clock_.now = 111;
  states_[0]->Allow(1 << 30);
  EXPECT_TRUE(running.Wait().status.ok());
  EXPECT_FALSE(waiting.done());
  engine_->Tick();
  EXPECT_TRUE(absl::IsDeadlineExceeded(waiting.Wait().status));
  EXPECT_THAT(Admitted(states_[0]->Plans()), ElementsAre(1));
}

// Small requests keep the pool full; the large one waits for its patience and
// for those that run.
TEST_F(EngineTest, PagesAreGatheredForALargeRequest) {
  Start({}, {90});  // five small ones, or one of 72
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(12);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(Submit(Ask(10, 5 + i), &streams[i]).ok());
  }
  Request large = Ask(100, 20);
  large.tenant = std::make_shared<const Tenant>(Tenant{.name = "large"});
  ASSERT_TRUE(Submit(large, &streams[5]).ok());
  for (int i = 6; i < 12; ++i) {
    ASSERT_TRUE(Submit(Ask(10, 5), &streams[i]).ok());
  }
  clock_.now = clock_.now + 0.5;
  engine_->Tick();
  EXPECT_EQ(engine_->counters().head_fits, false);
  states_[0]->Allow(1 << 30);
  for (Stream& s : streams) EXPECT_TRUE(s.Wait().status.ok());
  const std::vector<uint64_t> admitted = Admitted(states_[0]->Plans());
  ASSERT_EQ(admitted.size(), 12u);
  EXPECT_EQ(admitted[5], 6u) << "right behind those that ran";
  Monitor::Lock lock(states_[0]->monitor);
  EXPECT_LE(states_[0]->peak_slabs, 90);
}

// The group that is kept for a request may be lost, and the request may leave.
TEST_F(EngineTest, AGroupIsNotKeptForNobody) {
  EngineOptions options;
  options.replay = ReplayMode::kExact;
  Start(options, {90});
  states_[0]->Allow(-(1 << 30));
  std::vector<Stream> streams(8);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(Submit(Ask(10, 5), &streams[i]).ok());
  }
  const uint64_t large = Submit(Ask(100, 20), &streams[4]).value();
  clock_.now = clock_.now + 1;
  engine_->Tick();  // becomes the head
  clock_.now = clock_.now + 1;
  engine_->Tick();
  ASSERT_TRUE(Submit(Ask(10, 5), &streams[5]).ok());
  EXPECT_EQ(engine_->counters().queued, 2) << "it would fit";
  engine_->Cancel(large, absl::CancelledError("left"));
  EXPECT_EQ(engine_->counters().queued, 0);
  ASSERT_TRUE(Submit(Ask(100, 20), &streams[6]).ok());
  clock_.now = clock_.now + 1;
  engine_->Tick();
  clock_.now = clock_.now + 1;
  engine_->Tick();
  states_[0]->Fail(absl::UnavailableError("rank 0 died"));
  engine_->Tick();
  {
    Monitor::Lock lock(monitor_);
    EXPECT_TRUE(lock.AwaitFor(30, [&] { return lost_.size() == 1; }));
  }
  AddGroup({90});
  ASSERT_TRUE(Submit(Ask(10, 5), &streams[7]).ok());
  for (Stream& s : streams) {
    const absl::Status status = s.Wait().status;
    EXPECT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
  }
}

TEST_F(EngineTest, AdmissionIsAnsweredAndNothingIsQueued) {
  EngineOptions options;
  options.max_sequences = 2;
  options.max_queue = 1;
  Start(options, {72});
  states_[0]->Allow(-(1 << 30));
  AdmissionAnswer answer = engine_->CheckAdmission(Ask(10, 5)).value();
  EXPECT_TRUE(answer.fits_now);
  EXPECT_EQ(answer.pages, 18);
  EXPECT_EQ(answer.kv_bytes,
            18 * engine_->group_info()->geometry().SlabBytes());
  EXPECT_EQ(answer.retry_after_seconds, 0);
  EXPECT_EQ(answer.reason, "");
  EXPECT_EQ(engine_->counters().running + engine_->counters().queued, 0);
  Stream running, waiting;
  ASSERT_TRUE(Submit(Ask(10, 5), &running).ok());
  EXPECT_TRUE(engine_->CheckAdmission(Ask(10, 5))->fits_now);
  answer = engine_->CheckAdmission(Ask(100, 20)).value();  // 72 pages
  EXPECT_FALSE(answer.fits_now);
  EXPECT_EQ(answer.pages, 72);
  EXPECT_GT(answer.retry_after_seconds, 0);
  EXPECT_THAT(answer.reason, HasSubstr("no group has room"));
  ASSERT_TRUE(Submit(Ask(100, 20), &waiting).ok());
  answer = engine_->CheckAdmission(Ask(100, 20)).value();
  EXPECT_FALSE(answer.fits_now);
  EXPECT_THAT(answer.reason, HasSubstr("the queue is full"));
  EXPECT_TRUE(
      absl::IsInvalidArgument(engine_->CheckAdmission(Ask(300, 1)).status()));
  states_[0]->Allow(1 << 30);
  EXPECT_TRUE(running.Wait().status.ok());
  EXPECT_TRUE(waiting.Wait().status.ok());
}

size_t NumThreads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                       std::filesystem::directory_iterator());
}

TEST_F(EngineTest, LostGroupsLeaveNothingBehind) {
  Start({}, {1000}, 1);
  const size_t threads = NumThreads();
  for (int i = 0; i < 100; ++i) {
    AddGroup({2000});
    states_.back()->Allow(-(1 << 30));
    Stream stream;
    ASSERT_TRUE(Submit(Ask(10, 5), &stream).ok());
    states_.back()->Fail(absl::UnavailableError("rank 0 died"));
    EXPECT_TRUE(absl::IsUnavailable(stream.Wait().status));
  }
  {
    Monitor::Lock lock(monitor_);
    EXPECT_TRUE(lock.AwaitFor(30, [&] { return lost_.size() == 100; }));
  }
  // The last loop has yet to end, but for what it said.
  for (int i = 0; i < 3000 && NumThreads() > threads; ++i) {
    engine_->Tick();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(NumThreads(), threads);
  for (size_t i = 1; i < states_.size(); ++i) {
    EXPECT_EQ(states_[i].use_count(), 1) << "the group still lives";
  }
  EXPECT_EQ(engine_->num_groups(), 1);
  Stream stream;
  ASSERT_TRUE(Submit(Ask(10, 5), &stream).ok());
  EXPECT_TRUE(stream.Wait().status.ok());
}

TEST_F(EngineTest, ATextRunsAsItsTokens) {
  UseTokenizer();
  Start();
  Stream stream;
  ASSERT_TRUE(Submit(AskText("The kernel"), &stream).ok());
  const StreamEvent last = stream.Wait();
  EXPECT_EQ(last.finish, FinishReason::kLength);
  const std::vector<int32_t> tokens = tokenizer_->Encode("The kernel").value();
  EXPECT_EQ(last.usage.prompt_tokens, static_cast<int>(tokens.size()));
  EXPECT_EQ(states_[0]->Plans()[0].admit[0].prompt, tokens);
}

TEST_F(EngineTest, ErrorsOfATextComeAsItsLastEvent) {
  UseTokenizer();
  Start({}, {18});  // 32 slots
  const auto expect = [&](const Request& request, const char* says) {
    EXPECT_THAT(std::string(engine_->Check(request).message()),
                HasSubstr(says));
    Stream stream;
    ASSERT_TRUE(Submit(request, &stream).ok());
    const StreamEvent last = stream.Wait();
    EXPECT_EQ(last.status, engine_->Check(request));
    EXPECT_EQ(last.status.code(), absl::StatusCode::kInvalidArgument);
  };
  std::string text;
  for (int i = 0; i < 300; ++i) text += "word ";
  expect(AskText(text), "positions");
  expect(AskText(text.substr(0, 400)), "pages");
  EXPECT_EQ(engine_->counters().refused, 2);
  EXPECT_EQ(engine_->counters().queued, 0);
  // What can be told at once still is.
  Request bad = AskText("a\xff");
  EXPECT_THAT(std::string(Refusal(bad).message()), HasSubstr("UTF-8"));
}

// 256 positions of at most 16 bytes.
TEST_F(EngineTest, ATextTooLongForTheModelIsRefusedBeforeItIsRead) {
  UseTokenizer();
  Start();
  // Not even the check of its characters has read it.
  const absl::Status status = Refusal(AskText(std::string(4'000'000, '\xff')));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("4000000 bytes"), HasSubstr("250000 tokens"),
                    HasSubstr("256 positions")));
  EXPECT_EQ(engine_->counters().refused, 1);
}

// Long texts keep the encoder busy; behind them one is cancelled, one finds the
// queue full, and tokens pass.
TEST_F(EngineTest, EncodesTextsForAnyone) {
  UseTokenizer();
  Start({}, {1000}, /*groups=*/0);
  const auto encode = [&](const std::string& text, bool special) {
    Monitor monitor;
    std::optional<absl::StatusOr<Request>> encoded;
    engine_->Encode(text, special, [&](absl::StatusOr<Request> request) {
      Monitor::Lock lock(monitor);
      encoded = std::move(request);
    });
    Monitor::Lock lock(monitor);
    lock.Await([&] { return encoded.has_value(); });
    return *std::move(encoded);
  };
  EXPECT_TRUE(absl::IsUnavailable(encode("hi", true).status()));
  AddGroup({1000});
  const auto tokens = tokenizer_->Encode("hi").value();
  EXPECT_EQ(encode("hi", true)->tokens, tokens);
  EXPECT_EQ(encode("hi", false)->tokens,
            std::vector<int32_t>(tokens.begin() + 1, tokens.end()));
  EXPECT_TRUE(encode("", false)->tokens.empty());
  EXPECT_TRUE(absl::IsInvalidArgument(encode("\xff", true).status()));
}

TEST_F(EngineTest, ATextThatIsEncodedWaitsInTheQueue) {
  UseTokenizer();
  config_.max_positions = 65536;
  Start({.max_queue = 3});
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "word ";
  Stream longs[2], cancelled, tokens;
  for (Stream& s : longs) ASSERT_TRUE(Submit(AskText(text), &s).ok());
  const uint64_t id = Submit(AskText("short"), &cancelled).value();
  EXPECT_EQ(engine_->counters().queued, 3);
  EXPECT_TRUE(absl::IsResourceExhausted(Refusal(AskText("one more"))));
  engine_->Cancel(id, absl::CancelledError("left"));
  EXPECT_TRUE(absl::IsCancelled(cancelled.Wait().status));
  ASSERT_TRUE(Submit(Ask(10, 5), &tokens).ok());
  EXPECT_TRUE(tokens.Wait().status.ok());
  EXPECT_EQ(engine_->counters().queued, 2);
  for (Stream& s : longs) {
    EXPECT_EQ(s.Wait().status.code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(EngineTest, TextsRunInTheOrderInWhichTheyCame) {
  UseTokenizer();
  Start({}, {18});  // one at a time
  std::vector<Stream> streams(20);
  for (size_t i = 0; i < streams.size(); ++i) {  // ever quicker to encode
    ASSERT_TRUE(Submit(AskText(std::string(20 - i, 'a')), &streams[i]).ok());
  }
  for (Stream& s : streams) EXPECT_TRUE(s.Wait().status.ok());
  std::vector<uint64_t> admitted;
  for (const StepPlan& plan : states_[0]->Plans()) {
    for (const SequenceSpec& spec : plan.admit) admitted.push_back(spec.id);
  }
  for (size_t i = 0; i < admitted.size(); ++i) EXPECT_EQ(admitted[i], i + 1);
}

TEST_F(EngineTest, ALostGroupEndsTextsThatNoneIsLeftToRun) {
  UseTokenizer();
  config_.max_positions = 65536;
  Start();
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "word ";
  Stream longs[2], waiting;
  for (Stream& s : longs) ASSERT_TRUE(Submit(AskText(text), &s).ok());
  ASSERT_TRUE(Submit(AskText("short"), &waiting).ok());
  states_[0]->Fail(absl::UnavailableError("rank 0 died"));
  engine_->Tick();
  EXPECT_EQ(waiting.Wait().status, absl::UnavailableError("rank 0 died"));
  for (Stream& s : longs) EXPECT_TRUE(absl::IsUnavailable(s.Wait().status));
}

TEST(EngineOptions, RefusesWhatCannotBe) {
  SteadyClock clock;
  for (auto change : {+[](EngineOptions* o) { o->max_queue = 0; },
                      +[](EngineOptions* o) { o->max_sequences = 0; },
                      +[](EngineOptions* o) { o->stall_target_seconds = 0; },
                      +[](EngineOptions* o) { o->kv_budget_cap = -1; },
                      +[](EngineOptions* o) { o->longest_step_seconds = 0; },
                      +[](EngineOptions* o) {
                        o->default_kv_policy.budget_tokens = 7;  // full
                      },
                      +[](EngineOptions* o) {
                        o->default_kv_policy = {KvPolicyName::kH2o, 41};
                        o->kv_budget_cap = 40;
                      }}) {
    EngineOptions options;
    change(&options);
    EXPECT_EQ(
        Engine::Create(options, TinyConfig(), nullptr, &clock).status().code(),
        absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace h2o
