// Tests requests with several choices: one prefill, admitted whole or not at
// all, and sequences like any other from then on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "api/refusal.h"
#include "coordinator/engine.h"
#include "tests/coordinator/fake_group.h"
#include "tests/worker/tiny_model.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kPages = 18;  // of a sequence of up to 32 tokens

class FakeClock final : public Clock {
 public:
  double Now() const override { return now.load(); }
  std::atomic<double> now{100};
};

// The streams of all choices of one request.
class Answer {
 public:
  struct Choice {
    std::vector<int32_t> tokens;
    std::optional<uint64_t> seed;
    std::optional<StreamEvent> last;
  };

  EventCallback Callback() {
    return [this](StreamEvent event) {
      Monitor::Lock lock(monitor_);
      Choice& choice = choices_[event.choice];
      EXPECT_FALSE(choice.last) << "an event after the last";
      if (event.seed) choice.seed = event.seed;
      choice.tokens.insert(choice.tokens.end(), event.tokens.begin(),
                           event.tokens.end());
      ended_ += event.done ? 1 : 0;
      if (event.done) choice.last = std::move(event);
    };
  }
  // All choices, when so many have ended.
  std::map<int32_t, Choice> Wait(int n) {
    Monitor::Lock lock(monitor_);
    EXPECT_TRUE(lock.AwaitFor(30, [&] { return ended_ >= n; }));
    return choices_;
  }
  size_t tokens(int32_t choice) {
    Monitor::Lock lock(monitor_);
    return choices_[choice].tokens.size();
  }
  int ended() {
    Monitor::Lock lock(monitor_);
    return ended_;
  }

 private:
  Monitor monitor_;
  std::map<int32_t, Choice> choices_;
  int ended_ = 0;
};

class ChoicesTest : public ::testing::Test {
 protected:
  void Start(const EngineOptions& options, int64_t pages) {
    engine_ =
        Engine::Create(options, config_, tokenizer_.get(), &clock_).value();
    AddGroup(pages);
  }
  void AddGroup(int64_t pages, int allowed_steps = 1 << 30) {
    states_.push_back(std::make_shared<FakeGroupState>());
    states_.back()->allowed_steps = allowed_steps;
    engine_->AddGroup(std::make_unique<FakeGroup>(
        config_, std::vector<int64_t>{pages}, states_.back()));
  }
  // The group does nothing before it is told.
  void Hold() { states_.back()->Allow(-(1 << 30)); }
  void LetRun() { states_.back()->Allow(1 << 30); }

  static Request Ask(int n, int prompt = 10, int max_tokens = 5) {
    Request request;
    request.tokens.assign(prompt, 5);
    request.max_tokens = max_tokens;
    request.n = n;
    request.sampling.temperature = 1;
    request.sampling.seed = 70;
    return request;
  }
  absl::StatusOr<uint64_t> Submit(const Request& request, Answer* answer) {
    return engine_->Submit(request, answer->Callback());
  }
  absl::Status Refusal(const Request& request) {
    return engine_->Submit(request, nullptr).status();
  }
  // What the groups were told to prefill.
  std::set<uint64_t> Prefilled() {
    std::set<uint64_t> ids;
    for (const auto& state : states_) {
      for (const StepPlan& plan : state->Plans()) {
        for (const PrefillSlice& slice : plan.prefill) {
          ids.insert(slice.sequence_ids.begin(), slice.sequence_ids.end());
        }
      }
    }
    return ids;
  }
  void ExpectNothingHeld() {
    EXPECT_EQ(engine_->counters().slabs_held, 0);
    for (const TenantStatus& tenant : engine_->tenants()) {
      EXPECT_EQ(tenant.running + tenant.pages + tenant.waiting, 0);
    }
  }

  FakeClock clock_;
  ModelConfig config_ = TinyConfig();
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<std::shared_ptr<FakeGroupState>> states_;
  std::unique_ptr<Engine> engine_;
};

void ExpectWhole(const Answer::Choice& choice, int tokens = 5) {
  std::vector<int32_t> all(tokens);
  std::iota(all.begin(), all.end(), 100);
  EXPECT_EQ(choice.tokens, all);
  ASSERT_TRUE(choice.last);
  EXPECT_TRUE(choice.last->status.ok()) << choice.last->status;
  EXPECT_EQ(choice.last->usage.completion_tokens, tokens);
}

TEST_F(ChoicesTest, CostOnePrefillAndDrawWithSeedsOfTheirOwn) {
  Start({}, 1000);
  Answer answer;
  ASSERT_EQ(Submit(Ask(8), &answer).value(), 1u);
  const auto choices = answer.Wait(8);
  ASSERT_EQ(choices.size(), 8u);
  for (const auto& [i, choice] : choices) {
    ExpectWhole(choice);
    EXPECT_EQ(choice.seed, 70u + i);
    EXPECT_EQ(choice.last->usage.prompt_tokens, 10);
  }
  EXPECT_THAT(Prefilled(), ElementsAre(1));
  std::vector<SequenceSpec> admitted;
  for (const StepPlan& plan : states_[0]->Plans()) {
    EXPECT_TRUE(plan.admit.empty() || admitted.empty()) << "not together";
    admitted.insert(admitted.end(), plan.admit.begin(), plan.admit.end());
  }
  ASSERT_EQ(admitted.size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(admitted[i].fork_of, i == 0 ? 0u : 1u);
    EXPECT_EQ(admitted[i].sampling.seed, 70 + i);
  }
  const EngineCounters counters = engine_->counters();
  EXPECT_EQ(counters.prompt_tokens, 10) << "counted once";
  EXPECT_EQ(counters.generated_tokens, 40);
  EXPECT_EQ(engine_->tenants()[0].tokens, 50);
  ExpectNothingHeld();
  Answer next;
  EXPECT_EQ(Submit(Ask(1), &next).value(), 9u);
  next.Wait(1);
}

TEST_F(ChoicesTest, AreCheckedBeforeTheyWait) {
  EngineOptions options;
  options.max_sequences = 6;
  Start(options, 100);
  const auto expect_refused = [&](const Request& request, const char* says) {
    const absl::Status status = Refusal(request);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
    EXPECT_EQ(engine_->Check(request), status);
    EXPECT_EQ(engine_->CheckAdmission(request).status(), status);
  };
  expect_refused(Ask(0), "n is 0");
  expect_refused(Ask(129), "n is 129; it must be 1 to 128");
  expect_refused(Ask(7), "it has 7 choices, and a group runs at most 6");
  expect_refused(Ask(6), "it needs 108 KV pages on rank 0");
  Request resumed = Ask(2);
  resumed.generated = {100};
  EXPECT_THAT(std::string(Refusal(resumed).message()), HasSubstr("n is 2"));
  Request of_tenant = Ask(3);
  of_tenant.tenant =
      std::make_shared<const Tenant>(Tenant{.name = "a", .max_running = 2});
  EXPECT_THAT(std::string(Refusal(of_tenant).message()),
              HasSubstr("tenant a may run 2 at once"));
  const AdmissionAnswer answer = engine_->CheckAdmission(Ask(5)).value();
  EXPECT_TRUE(answer.fits_now);
  EXPECT_EQ(answer.pages, 5 * kPages);
  ExpectNothingHeld();
}

TEST_F(ChoicesTest, StartTogetherOrWaitTogether) {
  Start({}, 5 * kPages);
  Hold();
  Answer first, second, third;
  ASSERT_TRUE(Submit(Ask(3), &first).ok());
  ASSERT_TRUE(Submit(Ask(3), &second).ok());
  EXPECT_EQ(engine_->counters().running, 3);
  EXPECT_EQ(engine_->counters().queued, 3) << "each choice counts";
  EXPECT_FALSE(engine_->CheckAdmission(Ask(3))->fits_now);
  ASSERT_TRUE(Submit(Ask(2), &third).ok()) << "it passes the larger one";
  EXPECT_EQ(engine_->counters().running, 5);
  LetRun();
  for (const auto& [answer, n] :
       {std::pair(&first, 3), {&second, 3}, {&third, 2}}) {
    for (const auto& [i, choice] : answer->Wait(n)) ExpectWhole(choice);
  }
  EXPECT_LE(states_[0]->PeakSlabs(), 5 * kPages);
  EXPECT_THAT(Prefilled(), ElementsAre(1, 4, 7));
  ExpectNothingHeld();
}

// The pages of a party are gathered for it as for one large request.
TEST_F(ChoicesTest, AGroupIsKeptForThemAll) {
  Start({}, 4 * kPages);
  Hold();
  Answer one, all, late;
  ASSERT_TRUE(Submit(Ask(2), &one).ok());
  const uint64_t id = Submit(Ask(4), &all).value();
  clock_.now = clock_.now + 1;
  engine_->Tick();
  ASSERT_TRUE(Submit(Ask(1), &late).ok());
  EXPECT_EQ(engine_->counters().running, 2) << "nobody passes any more";
  engine_->CancelChoice(id, 0, absl::CancelledError("not that one"));
  all.Wait(1);
  engine_->Tick();
  EXPECT_EQ(engine_->counters().running, 2) << "it is kept for the rest";
  LetRun();
  late.Wait(1);
  const auto choices = all.Wait(4);
  EXPECT_TRUE(absl::IsCancelled(choices.at(0).last->status));
  for (int i : {1, 2, 3}) {
    ExpectWhole(choices.at(i));
    EXPECT_EQ(choices.at(i).seed, 70u + i);
  }
  EXPECT_THAT(Prefilled(), ElementsAre(1, 4, 7)) << "choice 1 in place of 0";
  EXPECT_EQ(engine_->counters().prompt_tokens, 30);
  ExpectNothingHeld();
}

TEST_F(ChoicesTest, TenantsAndTheQueueCountEachOfThem) {
  EngineOptions options;
  options.max_queue = 6;
  options.max_sequences = 6;
  Start(options, 1000);
  Hold();
  const auto row =
      std::make_shared<const Tenant>(Tenant{.name = "a",
                                            .max_waiting = 3,
                                            .max_running = 4,
                                            .tokens_per_minute = 200});
  const auto of = [&](int n) {
    Request request = Ask(n);
    request.tenant = row;
    return request;
  };
  Answer running, waiting, other;
  ASSERT_TRUE(Submit(of(3), &running).ok());
  ASSERT_TRUE(Submit(of(2), &waiting).ok());
  EXPECT_EQ(engine_->tenants()[0].running, 3);
  EXPECT_EQ(engine_->tenants()[0].waiting, 2) << "4 may run at once";
  EXPECT_EQ(RefusalOf(Refusal(of(2))), h2o::Refusal::kTenantWaiting);
  ASSERT_TRUE(Submit(Ask(4), &other).ok());
  EXPECT_EQ(engine_->counters().queued, 6);
  EXPECT_EQ(RefusalOf(Refusal(Ask(1))), h2o::Refusal::kQueueFull);
  LetRun();
  running.Wait(3);
  waiting.Wait(2);
  other.Wait(4);
  for (const TenantStatus& tenant : engine_->tenants()) {
    EXPECT_EQ(tenant.tokens, tenant.name == "a" ? 20 + 25 : 10 + 20);
  }
  ExpectNothingHeld();
  // 45 of 200 tokens are gone, and 11 choices may take up to 165.
  EXPECT_EQ(RefusalOf(Refusal([&] {
              Request request = of(4);
              request.max_tokens = 40;
              return request;
            }())),
            h2o::Refusal::kTenantTokens);
}

TEST_F(ChoicesTest, EndTogetherInTheQueue) {
  EngineOptions options;
  options.max_sequences = 3;
  Start(options, 1000);
  Hold();
  Answer running, cancelled, late;
  ASSERT_TRUE(Submit(Ask(3), &running).ok());
  const uint64_t id = Submit(Ask(2), &cancelled).value();
  Request soon = Ask(3);
  soon.timeout_seconds = 5;
  ASSERT_TRUE(Submit(soon, &late).ok());
  engine_->Cancel(id, absl::CancelledError("the client left"));
  for (const auto& [i, choice] : cancelled.Wait(2)) {
    EXPECT_TRUE(absl::IsCancelled(choice.last->status));
  }
  clock_.now = clock_.now + 6;
  engine_->Tick();
  for (const auto& [i, choice] : late.Wait(3)) {
    EXPECT_TRUE(absl::IsDeadlineExceeded(choice.last->status));
  }
  LetRun();
  running.Wait(3);
  ExpectNothingHeld();
}

// Before its prefill, in the midst of it and behind it.
TEST_F(ChoicesTest, GoOnWithoutTheOneThatIsCancelled) {
  for (const int choice : {0, 1, 2}) {
    for (const int steps : {0, 1, 2, 4}) {
      SCOPED_TRACE(::testing::Message() << choice << " after " << steps);
      EngineOptions options;
      options.longest_step_seconds = 1e-9;  // one layer of 3 a step
      Start(options, 1000);
      Hold();
      Answer answer;
      const uint64_t id = Submit(Ask(3), &answer).value();
      for (int i = 0; i < steps; ++i) states_.back()->Step();
      engine_->CancelChoice(id, choice, absl::CancelledError("not that one"));
      answer.Wait(1);
      LetRun();
      const auto choices = answer.Wait(3);
      for (const auto& [i, c] : choices) {
        if (i == choice) {
          EXPECT_TRUE(absl::IsCancelled(c.last->status));
        } else {
          ExpectWhole(c);
          EXPECT_EQ(c.seed, 70u + i);
        }
      }
      EXPECT_EQ(engine_->counters().prompt_tokens, 10);
      ExpectNothingHeld();
      states_.clear();
      engine_.reset();
    }
  }
}

TEST_F(ChoicesTest, AreCancelledTogetherWhileTheyRun) {
  Start({}, 1000);
  Hold();
  Answer answer;
  const uint64_t id = Submit(Ask(3, 10, 50), &answer).value();
  while (answer.tokens(2) == 0) states_[0]->Step();
  engine_->CancelChoice(id, 1, absl::CancelledError("not that one"));
  engine_->Cancel(id, absl::CancelledError("the client left"));
  for (const auto& [i, choice] : answer.Wait(3)) {
    EXPECT_TRUE(absl::IsCancelled(choice.last->status));
  }
  LetRun();
  ExpectNothingHeld();
}

// Lost before the prefill, in the midst of it, and behind it: each goes on by
// itself, and no token is missing or comes twice.
TEST_F(ChoicesTest, GoOnBehindALostGroup) {
  for (const ReplayMode mode : {ReplayMode::kExact, ReplayMode::kFast}) {
    for (const int steps : {0, 1, 2, 3, 5}) {
      SCOPED_TRACE(steps);
      EngineOptions options;
      options.replay = mode;
      options.longest_step_seconds = 1e-9;
      Start(options, 1000);
      Hold();
      Answer answer;
      ASSERT_TRUE(Submit(Ask(3, 10, 20), &answer).ok());
      for (int i = 0; i < steps; ++i) states_[0]->Step();
      states_[0]->Fail(absl::UnavailableError("rank 1 died"));
      engine_->Tick();
      AddGroup(1000);
      const auto choices = answer.Wait(3);
      for (const auto& [i, choice] : choices) {
        ExpectWhole(choice, 20);
        EXPECT_EQ(choice.seed, 70u + i);
        EXPECT_EQ(choice.last->usage.replays, 1);
      }
      EXPECT_EQ(engine_->counters().prompt_tokens, 10);
      ExpectNothingHeld();
      states_.clear();
      engine_.reset();
    }
  }
}

TEST_F(ChoicesTest, OfATextAreEncodedOnce) {
  config_.vocab_size = 8192;
  tokenizer_ = Tokenizer::Load("models/opt-demo", 8192).value();
  Start({}, 1000);
  Request request = Ask(3);
  request.tokens.clear();
  request.has_text = true;
  request.text = "Once upon a time";
  Answer answer;
  ASSERT_TRUE(Submit(request, &answer).ok());
  const auto choices = answer.Wait(3);
  for (const auto& [i, choice] : choices) ExpectWhole(choice);
  EXPECT_EQ(Prefilled().size(), 1u);
  // One that cannot run ends all its choices, and is counted as one refusal.
  request.text = std::string(4000, 'a');
  Answer refused;
  if (Submit(request, &refused).ok()) {
    for (const auto& [i, choice] : refused.Wait(3)) {
      EXPECT_TRUE(absl::IsInvalidArgument(choice.last->status));
    }
  }
  EXPECT_EQ(engine_->counters().refused, 1);
  ExpectNothingHeld();
}

TEST_F(ChoicesTest, TrafficOfAllSizesLeavesNothingBehind) {
  EngineOptions options;
  options.max_sequences = 8;
  options.max_queue = 1000;
  Start(options, 9 * kPages);
  std::vector<Answer> answers(200);
  for (size_t i = 0; i < answers.size(); ++i) {
    const int n = 1 + static_cast<int>(i * 7 % 8);
    const uint64_t id = Submit(Ask(n), &answers[i]).value();
    if (i % 5 == 0) {
      engine_->CancelChoice(id, static_cast<int32_t>(i) % n,
                            absl::CancelledError("not that one"));
    }
    if (i % 11 == 0) engine_->Cancel(id, absl::CancelledError("none"));
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    answers[i].Wait(1 + static_cast<int>(i * 7 % 8));
  }
  ExpectNothingHeld();
  EXPECT_EQ(engine_->counters().queued + engine_->counters().running, 0);
}

}  // namespace
}  // namespace h2o
