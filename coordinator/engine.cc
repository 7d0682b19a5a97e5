// The Engine's threads and the order of its work: see engine.h.
#include "coordinator/engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/group_at_work.h"

namespace h2o {
namespace {

constexpr int kEncoderThreads = 2;

constexpr double kDrainTurnSeconds = 0.25;

// A request that fits may overtake this many waiting requests that do not.  0:
// requests are served in order of arrival.
constexpr int kMayPass = 0;

absl::Status NoGroupError() {
  return absl::UnavailableError("no group of workers is ready");
}
absl::Status QuarantinedError(const absl::Status& lost) {
  return absl::InternalError(absl::StrCat(
      "quarantined: two groups were lost while they ran this request; the last "
      "one: ",
      lost.message()));
}
absl::Status ShutDownError() {
  return absl::UnavailableError("the server is shutting down");
}

}  // namespace

struct Engine::LiveGroup {
  LiveGroup(uint64_t number, std::unique_ptr<WorkerGroup> workers,
            const EngineOptions& options, double now,
            std::function<void(absl::Status)> on_lost)
      : work(number, std::move(workers), options, now),
        on_lost(std::move(on_lost)) {}

  GroupAtWork work;
  bool found_over = false;  // by Tick, for the loop to deal with
  const std::function<void(absl::Status)> on_lost;
  std::thread loop;
};

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
  if (!(options.replay_timeout_seconds >= 0)) {
    return invalid("replay timeout of ", options.replay_timeout_seconds,
                   " s; it must be 0 or more");
  }
  H2O_RETURN_IF_ERROR(ValidateKvPolicyRequest(options.default_kv_policy));
  // A default that refuses the shortest request would refuse all.
  H2O_RETURN_IF_ERROR(ResolveKvPolicy(options.default_kv_policy,
                                      /*prompt_tokens=*/1, /*max_tokens=*/1,
                                      options.kv_budget_cap)
                          .status());
  return std::unique_ptr<Engine>(new Engine(options, config, tokenizer, clock));
}

Engine::Engine(const EngineOptions& options, const ModelConfig& config,
               const Tokenizer* tokenizer, const Clock* clock)
    : options_(options),
      rules_({.config = config,
              .tokenizer = tokenizer,
              .default_kv_policy = options.default_kv_policy,
              .kv_budget_cap = options.kv_budget_cap,
              .max_stop = options.max_stop}),
      clock_(clock) {}

Engine::~Engine() {
  std::vector<std::thread> threads;
  std::unique_ptr<TextEncoder> encoder;
  {
    Monitor::Lock lock(monitor_);
    stopping_ = true;
    FailAll(ShutDownError());
    for (const std::unique_ptr<LiveGroup>& group : groups_) {
      group->work.workers().Abort(ShutDownError());
    }
    lock.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
      return num_loops_ == 0;
    });
    threads.swap(ended_loops_);
    threads.push_back(std::move(deliverer_));
    encoder = std::move(encoder_);
  }
  for (std::thread& thread : threads) {
    if (thread.joinable()) thread.join();
  }
}

void Engine::AddGroup(std::unique_ptr<WorkerGroup> workers,
                      std::function<void(absl::Status)> on_lost) {
  Monitor::Lock lock(monitor_);
  if (!deliverer_.joinable()) {
    deliverer_ = std::thread([this] { DeliverOutbox(); });
    if (rules_.tokenizer != nullptr) {
      encoder_ = std::make_unique<TextEncoder>(
          rules_.tokenizer, kEncoderThreads,
          [this](uint64_t id, absl::StatusOr<Request> request) {
            OnEncoded(id, std::move(request));
          });
    }
  }
  groups_.push_back(
      std::make_unique<LiveGroup>(next_group_++, std::move(workers), options_,
                                  clock_->Now(), std::move(on_lost)));
  LiveGroup* group = groups_.back().get();
  ++num_loops_;
  group->loop = std::thread([this, group] { Loop(group); });
  queue_.ForEach([&](Sequence& s) ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    if (s.stranded() && CouldRun(&s)) s.SetStranded(std::nullopt);
  });
  Place();
}

int Engine::num_groups() const {
  Monitor::Lock lock(monitor_);
  return static_cast<int>(groups_.size());
}

absl::StatusOr<GroupInfo> Engine::group_info() const {
  Monitor::Lock lock(monitor_);
  if (groups_.empty()) return NoGroupError();
  return groups_.front()->work.workers().info();
}

absl::Status Engine::Check(const Request& request) const {
  H2O_RETURN_IF_ERROR(CheckUnencoded(request, rules_));
  Request encoded = request;
  H2O_RETURN_IF_ERROR(EncodePrompt(rules_.tokenizer, &encoded));
  H2O_ASSIGN_OR_RETURN(SequenceSpec spec, SpecOf(std::move(encoded), rules_));
  Sequence sequence(0, request.has_text, {}, nullptr, nullptr, 0);
  H2O_RETURN_IF_ERROR(sequence.SetSpec(std::move(spec)));
  Monitor::Lock lock(monitor_);
  H2O_RETURN_IF_ERROR(CheckOpen());
  return CanEverFit(&sequence);
}

absl::StatusOr<uint64_t> Engine::Submit(Request request,
                                        EventCallback on_event) {
  const bool has_text = request.has_text;
  std::vector<int32_t> generated = request.generated;
  auto stream = std::make_shared<EventStream>(std::move(on_event));
  std::vector<std::string> stops = request.stop;
  absl::Status status = CheckUnencoded(request, rules_);
  SequenceSpec spec;
  std::optional<Request> to_encode;
  if (has_text) {
    to_encode = std::move(request);
  } else if (status.ok()) {
    absl::StatusOr<SequenceSpec> made = SpecOf(std::move(request), rules_);
    status = made.status();
    if (made.ok()) spec = *std::move(made);
  }

  Monitor::Lock lock(monitor_);
  auto sequence = std::make_unique<Sequence>(next_id_, has_text,
                                             std::move(stops), rules_.tokenizer,
                                             std::move(stream), clock_->Now());
  status.Update(CheckOpen());
  if (status.ok() && !has_text) {
    status = sequence->SetSpec(std::move(spec), std::move(generated));
    if (status.ok()) status = CanEverFit(sequence.get());
  }
  if (status.ok() && static_cast<int>(queue_.size()) >= options_.max_queue) {
    status = absl::ResourceExhaustedError(absl::StrCat(
        "the queue is full: ", queue_.size(), " requests wait; try later"));
  }
  if (status.ok() && to_encode) {
    status = encoder_->Add(next_id_, *std::move(to_encode));
  }
  if (!status.ok()) {
    counters_.CountRefusal(ReasonOf(status));
    return status;
  }
  const uint64_t id = next_id_++;
  queue_.Push(std::move(sequence));
  Place();
  return id;
}

void Engine::OnEncoded(uint64_t id, absl::StatusOr<Request> request) {
  std::vector<int32_t> generated;
  if (request.ok()) generated = request->generated;
  absl::StatusOr<SequenceSpec> spec =
      request.ok() ? SpecOf(*std::move(request), rules_) : request.status();
  Monitor::Lock lock(monitor_);
  Sequence* const sequence = queue_.Find(id);
  if (sequence == nullptr) return;  // cancelled meanwhile
  absl::Status status = spec.status();
  if (spec.ok()) {
    status = sequence->SetSpec(*std::move(spec), std::move(generated));
    if (status.ok() && !sequence->stranded()) status = CanEverFit(sequence);
  }
  if (!status.ok()) {
    counters_.CountRefusal(ReasonOf(status));
    const std::unique_ptr<Sequence> refused = queue_.Remove(id);
    outbox_.Add(refused->events(), refused->Fail(status, clock_->Now()));
  }
  Place();
}

void Engine::Cancel(uint64_t id, absl::Status reason) {
  Monitor::Lock lock(monitor_);
  if (const std::unique_ptr<Sequence> queued = queue_.Remove(id)) {
    EndQueued(queued.get(), reason);
  }
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    group->work.Fail(id, reason, clock_->Now(), &counters_, &outbox_);
  }
  Place();
}

void Engine::Tick() {
  std::vector<std::thread> ended;
  {
    Monitor::Lock lock(monitor_);
    for (const std::unique_ptr<LiveGroup>& group : groups_) {
      group->found_over |= !group->work.workers().status().ok();
    }
    if (options_.max_queue_seconds > 0) ExpireQueued();
    ExpireStranded();
    Place();
    ended.swap(ended_loops_);
  }
  for (std::thread& thread : ended) thread.join();
}

void Engine::Drain(double grace_seconds) {
  Monitor::Lock lock(monitor_);
  draining_ = true;
  // Turns are counted and not time, which may pass while nothing runs.
  bool idle = false;
  for (double left = grace_seconds; !idle; left -= kDrainTurnSeconds) {
    idle = lock.AwaitFor(
        std::clamp(left, 0.0, kDrainTurnSeconds),
        [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) { return Idle(); });
    if (left <= 0) break;
  }
  FailAll(ShutDownError());
  lock.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    return outbox_.empty() && delivering_ == 0;
  });
}

void Engine::CountRefusal(Refusal reason) {
  Monitor::Lock lock(monitor_);
  counters_.CountRefusal(reason);
}

Engine::Counters Engine::counters() const {
  Monitor::Lock lock(monitor_);
  Counters c = counters_;
  c.queued = static_cast<int64_t>(queue_.size());
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    c.running += static_cast<int64_t>(group->work.num_running());
    c.slabs_held += group->work.admission().HeldSlabs();
    c.slabs_total += group->work.admission().TotalSlabs();
  }
  c.head_fits = NextToPlace().sequence != nullptr;
  return c;
}

absl::Status Engine::Open() const {
  Monitor::Lock lock(monitor_);
  return CheckOpen();
}

std::vector<GroupStatus> Engine::groups() const {
  Monitor::Lock lock(monitor_);
  const double now = clock_->Now();
  std::vector<GroupStatus> all;
  for (const auto& group : groups_) all.push_back(group->work.status(now));
  return all;
}

double Engine::queue_age_seconds() const {
  const double now = clock_->Now();
  Monitor::Lock lock(monitor_);
  return queue_.OldestSeconds(now);
}

double Engine::stalled_seconds() const {
  const double now = clock_->Now();
  Monitor::Lock lock(monitor_);
  double longest = 0;
  for (const auto& group : groups_) {
    if (group->work.num_running() == 0) continue;
    longest = std::max(longest, now - group->work.busy_since());
  }
  return longest;
}

absl::Status Engine::CheckOpen() const {
  if (draining_ || stopping_) return ShutDownError();
  return groups_.empty() ? NoGroupError() : absl::OkStatus();
}

Refusal Engine::ReasonOf(const absl::Status& refusal) const {
  if (absl::IsResourceExhausted(refusal)) return Refusal::kQueueFull;
  if (!absl::IsUnavailable(refusal)) return Refusal::kBadRequest;
  return draining_ || stopping_ ? Refusal::kDraining : Refusal::kNoGroup;
}

absl::Status Engine::CanEverFit(Sequence* sequence) const {
  absl::Status fits = NoGroupError();
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    fits = group->work.CanEverFit(sequence);
    if (fits.ok()) break;
  }
  return fits;
}

Engine::LiveGroup* Engine::BestGroupFor(Sequence* sequence) const {
  LiveGroup* best = nullptr;
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    if (!group->work.workers().status().ok() || !group->work.Fits(sequence)) {
      continue;
    }
    if (best == nullptr || group->work.admission().FreeSlabs() >
                               best->work.admission().FreeSlabs()) {
      best = group.get();
    }
  }
  return best;
}

Engine::Placement Engine::NextToPlace() const {
  Placement next;
  next.sequence = queue_.Next(
      [&](Sequence& s) ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
        next.group = BestGroupFor(&s);
        return next.group != nullptr;
      },
      kMayPass);
  return next;
}

void Engine::Place() {
  for (Placement next = NextToPlace(); next.sequence != nullptr;
       next = NextToPlace()) {
    next.group->work.Start(queue_.Remove(next.sequence->id()), clock_->Now());
    counters_.peak_slabs_held = std::max(
        counters_.peak_slabs_held, next.group->work.admission().HeldSlabs());
  }
}

void Engine::ExpireQueued() {
  const double now = clock_->Now();
  for (const std::unique_ptr<Sequence>& sequence :
       queue_.RemoveExpired(options_.max_queue_seconds, now)) {
    ++counters_.refused_for[static_cast<size_t>(Refusal::kQueueSeconds)];
    EndQueued(sequence.get(),
              absl::ResourceExhaustedError(absl::StrCat(
                  "the request waited ", sequence->queued_seconds(now),
                  " s in the queue; the limit is ", options_.max_queue_seconds,
                  " s")));
  }
}

void Engine::ExpireStranded() {
  const bool replays = options_.replay != ReplayMode::kOff;
  const double longest = replays ? options_.replay_timeout_seconds : 0;
  const double now = clock_->Now();
  for (const auto& sequence : queue_.RemoveIf([&](const Sequence& s) {
         return s.stranded() && now - s.stranded()->since >= longest;
       })) {
    const absl::Status& lost = sequence->stranded()->reason;
    const std::string waited =
        replays ? absl::StrCat(
                      "; no group that can run the request was ready "
                      "within ",
                      longest, " s")
                : "";
    EndQueued(sequence.get(),
              absl::Status(lost.code(), absl::StrCat(lost.message(), waited)));
  }
}

void Engine::EndQueued(Sequence* sequence, const absl::Status& reason) {
  if (sequence->state() == Sequence::State::kEncoding) {
    encoder_->Remove(sequence->id());
  }
  const double now = clock_->Now();
  StreamEvent last = sequence->Fail(reason, now);
  counters_.CountEnd(last, sequence->queued_seconds(now));
  outbox_.Add(sequence->events(), std::move(last));
}

void Engine::FailAll(const absl::Status& reason) {
  for (const auto& sequence : queue_.RemoveIf([](Sequence&) { return true; })) {
    EndQueued(sequence.get(), reason);
  }
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    group->work.FailAll(reason, clock_->Now(), &counters_, &outbox_);
  }
}

bool Engine::Idle() const {
  return queue_.empty() &&
         std::all_of(groups_.begin(), groups_.end(),
                     [](const auto& g) { return g->work.num_running() == 0; });
}

absl::Status Engine::RunPlans(LiveGroup* group) {
  GroupAtWork& work = group->work;
  WorkerGroup& workers = work.workers();
  Outbox outbox;
  Monitor::Lock lock(monitor_);
  while (true) {
    lock.Await([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
      return stopping_ || group->found_over || work.IsBusy();
    });
    if (stopping_) return absl::OkStatus();
    if (group->found_over) return workers.status();
    if (work.CanPlan()) {
      const StepPlan plan = work.MakePlan(clock_->Now());
      lock.Release();
      H2O_RETURN_IF_ERROR(workers.Submit(plan));
      lock.Acquire();
      // One more ahead before waiting, if there is anything to do in it.
      if (work.HasRoomForPlan()) continue;
    }
    lock.Release();
    H2O_ASSIGN_OR_RETURN(GroupResult result, workers.Next());
    lock.Acquire();
    if (stopping_) return absl::OkStatus();
    work.Deliver(std::move(result), clock_->Now(), &counters_, &outbox);
    Place();
    ++delivering_;
    lock.Release();
    outbox.Deliver();
    lock.Acquire();
    --delivering_;
  }
}

void Engine::Loop(LiveGroup* group) {
  const absl::Status status = RunPlans(group);
  Outbox outbox;
  std::unique_ptr<LiveGroup> mine;
  {
    Monitor::Lock lock(monitor_);
    mine = Remove(group);
    if (!status.ok()) EndWithout(mine.get(), status, &outbox);
    ++delivering_;
  }
  if (!status.ok()) {
    mine->work.workers().Abort(status);
    outbox.Deliver();
    if (mine->on_lost) mine->on_lost(status);
  }
  std::thread self = std::move(mine->loop);
  mine.reset();  // frees the workers, which may take long
  Monitor::Lock lock(monitor_);
  --delivering_;
  --num_loops_;
  ended_loops_.push_back(std::move(self));
}

std::unique_ptr<Engine::LiveGroup> Engine::Remove(LiveGroup* group) {
  const auto it = std::find_if(groups_.begin(), groups_.end(),
                               [&](const auto& g) { return g.get() == group; });
  std::unique_ptr<LiveGroup> removed = std::move(*it);
  groups_.erase(it);
  return removed;
}

bool Engine::CouldRun(Sequence* sequence) const {
  return sequence->state() == Sequence::State::kEncoding
             ? !groups_.empty()
             : CanEverFit(sequence).ok();
}

void Engine::EndWithout(LiveGroup* lost, const absl::Status& reason,
                        Outbox* outbox) {
  if (options_.replay == ReplayMode::kOff) {
    lost->work.FailAll(reason, clock_->Now(), &counters_, outbox);
  } else {
    Requeue(lost, reason, outbox);
  }
  // Requests that no remaining group can run would wait for ever and block the
  // queue.
  const double now = clock_->Now();
  queue_.ForEach([&](Sequence& s) ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    if (!s.stranded() && !CouldRun(&s)) {
      s.SetStranded(Sequence::Stranded{now, reason});
    }
  });
  if (options_.replay == ReplayMode::kOff) ExpireStranded();
  Place();
}

void Engine::Requeue(LiveGroup* lost, const absl::Status& reason,
                     Outbox* outbox) {
  const double now = clock_->Now();
  RequestQueue::Taken again;
  for (std::unique_ptr<Sequence>& sequence : lost->work.TakeAll()) {
    if (sequence->CanReplay()) {
      ++counters_.replays;
      sequence->Requeue(options_.replay);
      again.push_back(std::move(sequence));
      continue;
    }
    ++counters_.quarantined;
    StreamEvent last = sequence->Fail(QuarantinedError(reason), now);
    counters_.CountEnd(last, sequence->queued_seconds(now));
    outbox->Add(sequence->events(), std::move(last));
  }
  queue_.PushInFront(std::move(again));
}

void Engine::DeliverOutbox() {
  Monitor::Lock lock(monitor_);
  while (true) {
    lock.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
      return stopping_ || !outbox_.empty();
    });
    if (outbox_.empty()) return;
    Outbox mine = std::exchange(outbox_, Outbox());
    ++delivering_;
    lock.Release();
    mine.Deliver();
    lock.Acquire();
    --delivering_;
  }
}

}  // namespace h2o
