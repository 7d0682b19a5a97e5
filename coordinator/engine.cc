#include "coordinator/engine.h"

#include <algorithm>
#include <deque>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/monitor.h"
#include "base/status_macros.h"
#include "coordinator/admission.h"
#include "coordinator/batch_scheduler.h"
#include "coordinator/request_spec.h"
#include "coordinator/sequence.h"

namespace h2o {
namespace {

// A group at work: what it promised, what it runs, and the thread that asks it.
struct Group {
  Group(std::unique_ptr<WorkerGroup> g, const EngineOptions& options)
      : workers(std::move(g)),
        admission(workers->info()),
        scheduler(workers->info().config().num_layers,
                  options.stall_target_seconds, workers->info().packed_tokens(),
                  options.longest_step_seconds) {}

  const std::unique_ptr<WorkerGroup> workers;
  Admission admission;
  BatchScheduler scheduler;
  std::map<uint64_t, std::unique_ptr<Sequence>> running;
  int plans_in_flight = 0;
  double last_result = -1;  // time of the last result of this busy period
  bool found_over = false;  // by Tick, for the loop to deal with
  bool lost = false;
  std::function<void(absl::Status)> on_lost;
  std::thread loop;
};

}  // namespace

class EngineImpl {
 public:
  EngineImpl(const EngineOptions& options, const ModelConfig& config,
             const Tokenizer* tokenizer, const Clock* clock)
      : options_(options),
        rules_({.config = config,
                .tokenizer = tokenizer,
                .default_kv_policy = options.default_kv_policy,
                .kv_budget_cap = options.kv_budget_cap}),
        clock_(clock) {}

  ~EngineImpl() {
    {
      Monitor::Lock lock(monitor_);
      stopping_ = true;
      EndAll(absl::UnavailableError("the server is shutting down"));
    }
    for (const std::unique_ptr<Group>& group : groups_) {
      group->workers->Abort(
          absl::UnavailableError("the server is shutting down"));
      group->loop.join();
    }
  }

  void AddGroup(std::unique_ptr<WorkerGroup> workers,
                std::function<void(absl::Status)> on_lost) {
    Monitor::Lock lock(monitor_);
    groups_.push_back(std::make_unique<Group>(std::move(workers), options_));
    Group* group = groups_.back().get();
    group->on_lost = std::move(on_lost);
    group->loop = std::thread([this, group] { Loop(group); });
    Place();
  }

  int num_groups() const {
    Monitor::Lock lock(monitor_);
    return static_cast<int>(
        std::count_if(groups_.begin(), groups_.end(),
                      [](const auto& g) { return !g->lost; }));
  }

  absl::StatusOr<GroupInfo> group_info() const {
    Monitor::Lock lock(monitor_);
    for (const std::unique_ptr<Group>& group : groups_) {
      if (!group->lost) return group->workers->info();
    }
    return NoGroupError();
  }

  absl::Status Check(const Request& request) const {
    H2O_ASSIGN_OR_RETURN(const SequenceSpec spec, MakeSpec(request));
    Monitor::Lock lock(monitor_);
    return CheckAdmissible(spec);
  }

  absl::StatusOr<uint64_t> Submit(Request request, EventCallback on_event) {
    std::vector<std::string> stops = request.stop;
    absl::StatusOr<SequenceSpec> made = MakeSpec(std::move(request));
    Monitor::Lock lock(monitor_);
    absl::Status accepted = made.ok() ? CheckAdmissible(*made) : made.status();
    if (accepted.ok() &&
        static_cast<int>(queue_.size()) >= options_.max_queue) {
      accepted = absl::ResourceExhaustedError(absl::StrCat(
          "the queue is full: ", queue_.size(), " requests wait; try later"));
    }
    if (!accepted.ok()) {
      ++counters_.refused;
      return accepted;
    }
    SequenceSpec spec = *std::move(made);
    spec.id = next_id_++;
    const uint64_t id = spec.id;
    queue_.push_back(std::make_unique<Sequence>(
        std::move(spec), std::move(stops), rules_.tokenizer,
        std::move(on_event), clock_->Now()));
    Place();
    return id;
  }

  void Cancel(uint64_t id, absl::Status reason) {
    Monitor::Lock lock(monitor_);
    for (auto it = queue_.begin(); it != queue_.end(); ++it) {
      if ((*it)->id() != id) continue;
      (*it)->Fail(std::move(reason), clock_->Now());
      queue_.erase(it);
      ++counters_.finished;
      Place();
      return;
    }
    for (const std::unique_ptr<Group>& group : groups_) {
      const auto it = group->running.find(id);
      if (it == group->running.end()) continue;
      it->second->Fail(std::move(reason), clock_->Now());
      Leave(group.get(), it);
      Place();
      return;
    }
  }

  void Tick() {
    Monitor::Lock lock(monitor_);
    for (const std::unique_ptr<Group>& group : groups_) {
      group->found_over |= !group->workers->status().ok();
    }
    if (options_.max_queue_seconds <= 0) return;
    const double now = clock_->Now();
    std::erase_if(queue_, [&](const std::unique_ptr<Sequence>& s) {
      if (s->queued_seconds(now) <= options_.max_queue_seconds) return false;
      s->Fail(absl::ResourceExhaustedError(
                  absl::StrCat("the request waited ", s->queued_seconds(now),
                               " s in the queue; the limit is ",
                               options_.max_queue_seconds, " s")),
              now);
      ++counters_.finished;
      return true;
    });
    Place();
  }

  void Drain(double grace_seconds) {
    Monitor::Lock lock(monitor_);
    draining_ = true;
    lock.AwaitFor(grace_seconds, [this] { return Idle(); });
    EndAll(absl::UnavailableError("the server is shutting down"));
  }

  Engine::Counters counters() const {
    Monitor::Lock lock(monitor_);
    Engine::Counters c = counters_;
    c.queued = static_cast<int64_t>(queue_.size());
    for (const std::unique_ptr<Group>& group : groups_) {
      if (group->lost) continue;
      c.running += static_cast<int64_t>(group->running.size());
      c.pages_held += group->admission.HeldPages();
      c.pages_total += group->admission.TotalPages();
    }
    c.head_fits = !queue_.empty() && BestGroupFor(*queue_.front()) != nullptr;
    return c;
  }

 private:
  using Running = std::map<uint64_t, std::unique_ptr<Sequence>>::iterator;

  static absl::Status NoGroupError() {
    return absl::UnavailableError("no group of workers is ready");
  }

  bool Idle() const {
    return queue_.empty() &&
           std::all_of(groups_.begin(), groups_.end(),
                       [](const auto& g) { return g->running.empty(); });
  }

  // Everything about a request that depends on the model alone.
  absl::StatusOr<SequenceSpec> MakeSpec(Request request) const;
  // ... and on the groups there are.
  absl::Status CheckAdmissible(const SequenceSpec& spec) const;
  absl::Status CanEverFit(const SequenceSpec& spec) const;

  // The group with the most free pages of those that hold it now, or null.
  Group* BestGroupFor(const Sequence& sequence) const;
  // Moves requests from the head of the queue to groups while they fit.
  void Place();
  void Start(Group* group, std::unique_ptr<Sequence> sequence);
  // A running sequence is done: its pages are free from the next plan on.
  void Leave(Group* group, Running it);
  void EndAll(const absl::Status& reason);

  void Loop(Group* group);
  void Deliver(Group* group, StepResult result);
  void Lose(Group* group, const absl::Status& reason);

  const EngineOptions options_;
  const RequestRules rules_;
  const Clock* const clock_;

  // All below is guarded by it, and so is all of a Group but its `workers`.
  mutable Monitor monitor_;
  std::deque<std::unique_ptr<Sequence>> queue_;
  // Lost groups stay until the end; their threads are joined then.
  std::vector<std::unique_ptr<Group>> groups_;
  Engine::Counters counters_;
  uint64_t next_id_ = 1;
  bool draining_ = false;
  bool stopping_ = false;
};

absl::StatusOr<SequenceSpec> EngineImpl::MakeSpec(Request request) const {
  H2O_RETURN_IF_ERROR(CheckUnencoded(request, rules_));
  H2O_RETURN_IF_ERROR(EncodePrompt(rules_.tokenizer, &request));
  return SpecOf(std::move(request), rules_);
}

absl::Status EngineImpl::CheckAdmissible(const SequenceSpec& spec) const {
  if (draining_ || stopping_) {
    return absl::UnavailableError("the server is shutting down");
  }
  return CanEverFit(spec);
}

absl::Status EngineImpl::CanEverFit(const SequenceSpec& spec) const {
  absl::Status fits = NoGroupError();
  const int64_t stored = MaxStoredTokens(
      static_cast<int64_t>(spec.prompt.size()), spec.max_tokens);
  for (const std::unique_ptr<Group>& group : groups_) {
    if (group->lost || fits.ok()) continue;
    fits = group->admission.CanEverFit(
        group->admission.ChargeOf(spec.policy, stored));
  }
  return fits;
}

Group* EngineImpl::BestGroupFor(const Sequence& sequence) const {
  Group* best = nullptr;
  for (const std::unique_ptr<Group>& group : groups_) {
    if (group->lost || !group->workers->status().ok() ||
        static_cast<int>(group->running.size()) >= options_.max_sequences ||
        !group->admission.Fits(group->admission.ChargeOf(
            sequence.spec().policy, sequence.max_stored_tokens()))) {
      continue;
    }
    if (best == nullptr ||
        group->admission.FreePages() > best->admission.FreePages()) {
      best = group.get();
    }
  }
  return best;
}

void EngineImpl::Place() {
  while (!queue_.empty()) {
    Group* group = BestGroupFor(*queue_.front());
    if (group == nullptr) return;
    std::unique_ptr<Sequence> sequence = std::move(queue_.front());
    queue_.pop_front();
    Start(group, std::move(sequence));
  }
}

void EngineImpl::Start(Group* group, std::unique_ptr<Sequence> sequence) {
  const int64_t stored = sequence->max_stored_tokens();
  PageCharge charge =
      group->admission.ChargeOf(sequence->spec().policy, stored);
  group->admission.Charge(charge);
  counters_.peak_pages_held =
      std::max(counters_.peak_pages_held, group->admission.HeldPages());
  const auto bytes = [&](const PageCharge& pages) {
    int64_t sum = 0;
    for (int64_t n : pages) sum += n;
    return sum * group->workers->info().geometry().PageBytes();
  };
  KvPolicy full;
  full.slots = {SlotsFor(KvPolicyName::kFull, static_cast<int32_t>(stored))};
  const int64_t kv_bytes = bytes(charge);
  sequence->Start(std::move(charge), kv_bytes,
                  bytes(group->admission.ChargeOf(full, stored)),
                  clock_->Now());
  group->scheduler.Admit(sequence->spec());
  const uint64_t id = sequence->id();
  group->running[id] = std::move(sequence);
}

void EngineImpl::Leave(Group* group, Running it) {
  // Plans run in order, so whoever is admitted from now on gets these pages
  // after the plan that retires their holder.
  group->scheduler.Retire(it->first);
  group->admission.Release(it->second->charge());
  group->running.erase(it);
  ++counters_.finished;
}

void EngineImpl::EndAll(const absl::Status& reason) {
  const double now = clock_->Now();
  for (const std::unique_ptr<Sequence>& sequence : queue_) {
    sequence->Fail(reason, now);
    ++counters_.finished;
  }
  queue_.clear();
  for (const std::unique_ptr<Group>& group : groups_) {
    while (!group->running.empty()) {
      const Running it = group->running.begin();
      it->second->Fail(reason, now);
      Leave(group.get(), it);
    }
  }
}

void EngineImpl::Loop(Group* group) {
  const auto ready = [&] {
    return stopping_ || group->plans_in_flight > 0 ||
           group->scheduler.HasWork() || group->found_over;
  };
  Monitor::Lock lock(monitor_);
  while (true) {
    lock.Await(ready);
    if (stopping_) break;
    absl::Status status;
    if (group->found_over) status = group->workers->status();
    if (status.ok() &&
        group->plans_in_flight < WorkerGroup::kMaxPlansInFlight &&
        group->scheduler.HasWork()) {
      const StepPlan plan = group->scheduler.MakePlan();
      ++group->plans_in_flight;
      lock.Release();
      status = group->workers->Submit(plan);
      lock.Acquire();
      // One more ahead before waiting, if there is anything to do in it.
      if (status.ok()) {
        if (group->plans_in_flight < WorkerGroup::kMaxPlansInFlight) continue;
      }
    }
    if (status.ok()) {
      lock.Release();
      absl::StatusOr<StepResult> result = group->workers->Next();
      lock.Acquire();
      --group->plans_in_flight;
      if (stopping_) break;
      status = result.status();
      if (status.ok()) Deliver(group, *std::move(result));
    }
    if (!status.ok()) {
      Lose(group, status);
      lock.Release();
      if (group->on_lost) group->on_lost(status);
      return;
    }
  }
}

void EngineImpl::Deliver(Group* group, StepResult result) {
  const double now = clock_->Now();
  group->scheduler.Observe(result);
  ++counters_.steps;
  counters_.slowest_layer_seconds =
      std::max(counters_.slowest_layer_seconds, result.slowest_layer_seconds);
  counters_.prefill_seconds += result.prefill_seconds;
  counters_.decode_seconds += result.decode_seconds;
  counters_.idle_seconds += result.idle_seconds;
  if (group->last_result >= 0) {
    ++counters_.intervals;
    counters_.interval_seconds += now - group->last_result;
    counters_.step_seconds += result.prefill_seconds + result.decode_seconds;
  }
  group->last_result = group->plans_in_flight > 0 ? now : -1;

  // Of each sequence in the order of its positions, whatever rank said it.
  std::stable_sort(result.trace.begin(), result.trace.end(),
                   [](const HeadTrace& a, const HeadTrace& b) {
                     return std::tie(a.sequence_id, a.pos, a.layer, a.head) <
                            std::tie(b.sequence_id, b.pos, b.layer, b.head);
                   });
  for (const TokenResult& token : result.tokens) {
    const auto it = group->running.find(token.sequence_id);
    if (it == group->running.end()) continue;  // ended after the plan was made
    Sequence& sequence = *it->second;
    // What this token brought: prefill's traces have no position, and a
    // sequence may have had its prefill and a first decode step in one plan.
    const auto take = [&](auto& items, auto&& belongs) {
      std::remove_reference_t<decltype(items)> taken;
      for (auto& item : items) {
        if (item.sequence_id == token.sequence_id && belongs(item)) {
          taken.push_back(std::move(item));
          item.sequence_id = 0;
        }
      }
      return taken;
    };
    const int32_t pos = sequence.next_traced_position();
    std::vector<HeadTrace> trace;
    if (!result.trace.empty()) {
      trace = take(result.trace,
                   [pos](const HeadTrace& t) { return t.pos == pos; });
    }
    const int32_t last_logit = sequence.next_logit_position();
    std::vector<LogitRows> logits;
    if (!result.logits.empty()) {
      logits = take(result.logits, [last_logit](const LogitRows& l) {
        return l.first_position <= last_logit;
      });
    }
    sequence.Accept(token, std::move(trace), std::move(logits), now);
    if (sequence.state() == Sequence::State::kDone) Leave(group, it);
  }
  Place();
}

void EngineImpl::Lose(Group* group, const absl::Status& reason) {
  group->lost = true;
  const double now = clock_->Now();
  while (!group->running.empty()) {
    const Running it = group->running.begin();
    it->second->Fail(reason, now);
    Leave(group, it);
  }
  group->workers->Abort(reason);
  // What nobody is left to run must not wait, or keep others waiting.
  std::erase_if(queue_, [&](const std::unique_ptr<Sequence>& sequence) {
    if (CanEverFit(sequence->spec()).ok()) return false;
    sequence->Fail(reason, now);
    ++counters_.finished;
    return true;
  });
  Place();
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    const EngineOptions& options, const ModelConfig& config,
    const Tokenizer* tokenizer, const Clock* clock) {
  const auto invalid = [](auto&&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (options.max_queue < 1) {
    return invalid("max-queue ", options.max_queue, "; it must be at least 1");
  }
  if (options.max_sequences < 1) {
    return invalid("max-sequences ", options.max_sequences,
                   "; it must be at least 1");
  }
  if (!(options.stall_target_seconds > 0)) {
    return invalid("stall target of ", options.stall_target_seconds,
                   " s; it must be over 0");
  }
  if (!(options.longest_step_seconds > 0)) {
    return invalid("longest step of ", options.longest_step_seconds,
                   " s; it must be over 0");
  }
  if (options.kv_budget_cap < 0) {
    return invalid("kv-budget-cap ", options.kv_budget_cap,
                   "; it must be at least 1, or 0 for none");
  }
  H2O_RETURN_IF_ERROR(ValidateKvPolicyRequest(options.default_kv_policy));
  // What the shortest request would be refused for, all would.
  H2O_RETURN_IF_ERROR(ResolveKvPolicy(options.default_kv_policy,
                                      /*prompt_tokens=*/1, /*max_tokens=*/1,
                                      options.kv_budget_cap)
                          .status());
  return std::unique_ptr<Engine>(new Engine(
      std::make_unique<EngineImpl>(options, config, tokenizer, clock)));
}

Engine::Engine(std::unique_ptr<EngineImpl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;
void Engine::AddGroup(std::unique_ptr<WorkerGroup> group,
                      std::function<void(absl::Status)> on_lost) {
  impl_->AddGroup(std::move(group), std::move(on_lost));
}
int Engine::num_groups() const { return impl_->num_groups(); }
absl::StatusOr<GroupInfo> Engine::group_info() const {
  return impl_->group_info();
}
absl::Status Engine::Check(const Request& request) const {
  return impl_->Check(request);
}
absl::StatusOr<uint64_t> Engine::Submit(Request request,
                                        EventCallback on_event) {
  return impl_->Submit(std::move(request), std::move(on_event));
}
void Engine::Cancel(uint64_t id, absl::Status reason) {
  impl_->Cancel(id, std::move(reason));
}
void Engine::Tick() { impl_->Tick(); }
void Engine::Drain(double grace_seconds) { impl_->Drain(grace_seconds); }
Engine::Counters Engine::counters() const { return impl_->counters(); }

}  // namespace h2o
