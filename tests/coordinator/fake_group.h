// A WorkerGroup without a model: it keeps the rules of lockstep, of memory and
// of forks, and says token 100 + index for every token.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <set>

#include "base/monitor.h"
#include "coordinator/worker_group.h"
#include "tests/model/loaded_rank.h"

namespace h2o {

// What a test looks at and steers; outlives the group, which an Engine owns.
struct FakeGroupState {
  Monitor monitor;  // guards what follows
  std::vector<StepPlan> plans;
  int64_t held_slabs = 0;
  int64_t peak_slabs = 0;
  int allowed_steps = 1 << 30;  // Next waits for more
  absl::Status failure;
  absl::Status leaving;
  bool released = false;
  double slowest_layer_seconds = 0;

  void Allow(int steps) {
    Monitor::Lock lock(monitor);
    allowed_steps += steps;
  }
  // Lets one more step run, and waits until it has.
  void Step() {
    Monitor::Lock lock(monitor);
    const int before = allowed_steps++;
    EXPECT_TRUE(lock.AwaitFor(30, [&] { return allowed_steps == before; }));
  }
  // Waits until the group has been sent a plan.
  void WaitForAPlan() {
    Monitor::Lock lock(monitor);
    EXPECT_TRUE(lock.AwaitFor(30, [&] { return !plans.empty(); }));
  }
  void Fail(absl::Status status) {
    Monitor::Lock lock(monitor);
    failure = std::move(status);
  }
  void Leave() {
    Monitor::Lock lock(monitor);
    leaving = absl::UnavailableError("rank 0 was told to stop");
  }
  bool Released() {
    Monitor::Lock lock(monitor);
    return released;
  }
  int64_t PeakSlabs() {
    Monitor::Lock lock(monitor);
    return peak_slabs;
  }
  std::vector<StepPlan> Plans() {
    Monitor::Lock lock(monitor);
    return plans;
  }
};

class FakeGroup final : public WorkerGroup {
 public:
  FakeGroup(const ModelConfig& config, const std::vector<int64_t>& num_slabs,
            std::shared_ptr<FakeGroupState> state)
      : state_(std::move(state)) {
    for (int64_t n : num_slabs) info_.ranks.push_back(LoadedRank(config, n));
  }

  const GroupInfo& info() const override { return info_; }
  absl::Status status() const override {
    Monitor::Lock lock(state_->monitor);
    return state_->failure;
  }

  absl::Status leaving() const override {
    Monitor::Lock lock(state_->monitor);
    return state_->leaving;
  }
  void Release() override {
    Monitor::Lock lock(state_->monitor);
    EXPECT_TRUE(unanswered_.empty());
    state_->released = true;
  }

  absl::Status Submit(const StepPlan& plan) override {
    Monitor::Lock lock(state_->monitor);
    if (!state_->failure.ok()) return state_->failure;
    EXPECT_EQ(plan.step, ++last_step_);
    EXPECT_LT(unanswered_.size(), size_t(kMaxPlansInFlight));
    state_->plans.push_back(plan);
    unanswered_.push_back(plan);
    return absl::OkStatus();
  }

  absl::StatusOr<GroupResult> Next() override {
    Monitor::Lock lock(state_->monitor);
    EXPECT_FALSE(unanswered_.empty());
    const auto ready = [&] {
      return state_->allowed_steps > 0 || !state_->failure.ok();
    };
    lock.Await(ready);
    if (!state_->failure.ok()) return state_->failure;
    --state_->allowed_steps;
    const StepPlan plan = std::move(unanswered_.front());
    unanswered_.pop_front();
    return GroupResult{Play(plan), std::vector<RankSeconds>(info_.tp())};
  }

  void Abort(absl::Status reason) override {
    Monitor::Lock lock(state_->monitor);
    state_->failure.Update(reason);
  }

 private:
  struct Open {
    SequenceSpec spec;
    int64_t pages = 0;
    int layers = 0, tokens = 0;
    bool finished = false;
  };

  StepResult Play(const StepPlan& plan) {
    StepResult result;
    result.step = plan.step;
    result.slowest_layer_seconds =
        plan.prefill.empty() ? 0 : state_->slowest_layer_seconds;
    for (uint64_t id : plan.retire) {
      EXPECT_TRUE(open_.contains(id)) << id;
      HandOver(id);
      state_->held_slabs -= open_[id].pages;
      open_.erase(id);
    }
    for (const SequenceSpec& spec : plan.admit) {
      EXPECT_FALSE(open_.contains(spec.id));
      Open& open = open_[spec.id];
      open.spec = spec;
      if (spec.fork_of != 0) {
        EXPECT_TRUE(IsForkOf(spec, open_.at(spec.fork_of).spec));
        EXPECT_EQ(open_.at(spec.fork_of).layers, 0);
      }
      open.tokens = spec.generated;
      for (size_t i = 0; i < spec.forced.size(); ++i) {
        EXPECT_EQ(spec.forced[i], 100 + static_cast<int32_t>(i));
      }
      open.pages = info_.geometry().SlabsNeeded(
          spec.policy, spec.num_positions(), {0, info_.config().qkv.kv_heads});
      state_->held_slabs += open.pages;
    }
    state_->peak_slabs = std::max(state_->peak_slabs, state_->held_slabs);
    int64_t total = 0;
    for (const RankInfo& rank : info_.ranks) total += rank.num_slabs;
    EXPECT_LE(state_->held_slabs, total) << "out of memory";
    for (const PrefillSlice& slice : plan.prefill) {
      for (uint64_t id : slice.sequence_ids) {
        Open& open = open_.at(id);
        EXPECT_EQ(slice.layer_begin, open.layers);
        EXPECT_EQ(open.spec.fork_of, 0u) << "a fork is prefilled";
        open.layers = slice.layer_end;
        if (open.layers < info_.config().num_layers) continue;
        Emit(&open, &result);
        for (Open* fork : ForksOf(id)) {
          fork->layers = open.layers;
          Emit(fork, &result);
        }
      }
    }
    for (uint64_t id : plan.decode) {
      Open& open = open_.at(id);
      EXPECT_EQ(open.layers, info_.config().num_layers);
      if (!open.finished) Emit(&open, &result);
    }
    return result;
  }

  // Those that wait for its prefill.
  std::vector<Open*> ForksOf(uint64_t id) {
    std::vector<Open*> forks;
    for (auto& [fork, open] : open_) {
      if (open.spec.fork_of == id && open.layers == 0) forks.push_back(&open);
    }
    return forks;
  }
  void HandOver(uint64_t id) {
    const std::vector<Open*> forks = ForksOf(id);
    if (forks.empty()) return;
    for (Open* fork : forks) fork->spec.fork_of = forks[0]->spec.id;
    forks[0]->spec.fork_of = 0;
    forks[0]->layers = open_.at(id).layers;
  }

  static void Emit(Open* open, StepResult* result) {
    TokenResult token{open->spec.id, 100 + open->tokens++, FinishReason::kNone};
    EXPECT_LE(open->tokens, open->spec.max_tokens);
    if (open->tokens == open->spec.max_tokens) {
      token.finish = FinishReason::kLength;
      open->finished = true;
    }
    result->tokens.push_back(token);
  }

  const std::shared_ptr<FakeGroupState> state_;
  GroupInfo info_;
  uint64_t last_step_ = 0;
  std::deque<StepPlan> unanswered_;
  std::map<uint64_t, Open> open_;
};

}  // namespace h2o
