// The Engine's threads and the order of its work: see engine.h.
#include "coordinator/engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "api/refusal.h"
#include "base/status_macros.h"
#include "coordinator/group_at_work.h"
#include "coordinator/queue_limits.h"

namespace h2o {
namespace {

// Threads that encode texts: not all cores of a small host.
int NumEncoderThreads() {
  return std::thread::hardware_concurrency() > 2 ? 2 : 1;
}

constexpr double kDrainTurnSeconds = 0.25;

absl::Status NoGroupError() {
  return Refused(Refusal::kNoGroup,
                 absl::UnavailableError("no group of workers is ready"));
}
absl::Status QuarantinedError(const absl::Status& lost) {
  return absl::InternalError(absl::StrCat(
      "quarantined: two groups were lost while they ran this request; the last "
      "one: ",
      lost.message()));
}
absl::Status ShutDownError() {
  return Refused(Refusal::kDraining,
                 absl::UnavailableError("the server is shutting down"));
}

}  // namespace

struct Engine::LiveGroup {
  LiveGroup(uint64_t shape, std::unique_ptr<WorkerGroup> workers,
            const EngineOptions& options, TenantAccounts* tenants, double now,
            GroupObserver observer)
      : work(shape, std::move(workers), options, tenants, now),
        observer(std::move(observer)) {}

  GroupAtWork work;
  // Set by Tick, for the loop to deal with.
  bool found_over = false;
  std::optional<double> leaves_since;
  bool released = false;  // nothing more is planned; what still runs moves
  const GroupObserver observer;
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
  if (options.max_queue_tokens < 0) {
    return invalid("max-queue-tokens ", options.max_queue_tokens,
                   "; it must be at least 1, or 0 for no limit");
  }
  if (!(options.head_patience_seconds >= 0)) {
    return invalid("head patience of ", options.head_patience_seconds,
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
      clock_(clock),
      queue_(&tenants_, options.head_patience_seconds),
      placement_(&queue_, &tenants_) {}

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
                      GroupObserver observer) {
  Monitor::Lock lock(monitor_);
  if (!deliverer_.joinable()) {
    deliverer_ = std::thread([this] { DeliverOutbox(); });
    if (rules_.tokenizer != nullptr) {
      encoder_ =
          std::make_unique<TextEncoder>(rules_.tokenizer, NumEncoderThreads());
    }
  }
  const double now = clock_->Now();
  const uint64_t shape = placement_.ShapeOf(workers->info());
  groups_.push_back(std::make_unique<LiveGroup>(shape, std::move(workers),
                                                options_, &tenants_, now,
                                                std::move(observer)));
  LiveGroup* group = groups_.back().get();
  placement_.Add(&group->work);
  CountPool();
  ++num_loops_;
  group->loop = std::thread([this, group] { Loop(group); });
  MarkStranded(std::nullopt);
  Place(now);
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
  for (int32_t i = 1; i < request.n; ++i) {
    sequence.Join(std::make_unique<Sequence>(
        i, request.has_text, AnswerForm(), nullptr, nullptr, 0, Standing(), i));
  }
  H2O_RETURN_IF_ERROR(sequence.SetSpec(std::move(spec)));
  Monitor::Lock lock(monitor_);
  H2O_RETURN_IF_ERROR(CheckOpen());
  return CanEverFit(&sequence);
}

absl::StatusOr<AdmissionAnswer> Engine::CheckAdmission(const Request& request) {
  Request encoded = request;
  H2O_RETURN_IF_ERROR(CheckUnencoded(request, rules_));
  H2O_RETURN_IF_ERROR(EncodePrompt(rules_.tokenizer, &encoded));
  Arrival arrival = ArrivalOf(std::move(encoded), rules_);
  Monitor::Lock lock(monitor_);
  const double now = clock_->Now();
  const std::unique_ptr<Sequence> all = SequenceOf(arrival, nullptr, now);
  Sequence& sequence = *all;
  H2O_RETURN_IF_ERROR(CheckArrival(&arrival, &sequence));
  AdmissionAnswer answer;
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    if (!group->work.CanEverFit(&sequence).ok()) continue;
    const SlabCharge& charge = group->work.ChargeOf(&sequence);
    answer.pages = SumOf(charge);
    answer.kv_bytes = group->work.BytesOf(charge);
    break;
  }
  absl::Status limits = CheckLimits(sequence, now);
  if (limits.ok()) limits = CheckAllowance(sequence, now);
  answer.fits_now = limits.ok() && placement_.WouldStart(&sequence) != nullptr;
  if (answer.fits_now) return answer;
  answer.retry_after_seconds = RetryAfterSeconds(limits).value_or(
      queue_.EstimateWait(sequence.standing(), sequence.most_tokens(), now));
  answer.reason = limits.ok() ? WhyItWaits(sequence, answer.pages)
                              : std::string(limits.message());
  return answer;
}

std::string Engine::WhyItWaits(const Sequence& sequence, int64_t pages) const {
  const TenantAccount& tenant = *sequence.standing().tenant;
  if (!tenants_.MayRun(tenant, sequence.choices()) ||
      !tenants_.MayHold(tenant, pages)) {
    return absl::StrCat("it would wait: tenant ", tenant.row->name, " runs ",
                        tenant.running, " requests with ", tenant.pages,
                        " pages, and its limits allow no more");
  }
  return absl::StrCat("it would wait: no group has room for it now, and ",
                      queue_.size(), " requests wait");
}

absl::StatusOr<uint64_t> Engine::Submit(Request request,
                                        EventCallback on_event) {
  Arrival arrival = ArrivalOf(std::move(request), rules_);
  auto stream = std::make_shared<EventStream>(std::move(on_event));

  Monitor::Lock lock(monitor_);
  const double now = clock_->Now();
  std::unique_ptr<Sequence> sequence = SequenceOf(arrival, stream, now);
  absl::Status status = CheckArrival(&arrival, sequence.get());
  if (status.ok()) status = CheckLimits(*sequence, now);
  if (status.ok()) status = CheckAllowance(*sequence, now);
  if (status.ok() && arrival.to_encode) {
    status = encoder_->Add(next_id_, *std::move(arrival.to_encode),
                           [this, id = next_id_](auto request) {
                             OnEncoded(id, std::move(request));
                           });
  }
  if (!status.ok()) {
    counters_.CountNotTaken(status);
    return status;
  }
  const uint64_t id = next_id_;
  next_id_ += sequence->choices();
  tenants_.Take(sequence->standing().tenant, sequence->SetAllowance());
  queue_.Push(std::move(sequence), now);
  Place(now);
  return id;
}

std::unique_ptr<Sequence> Engine::SequenceOf(
    const Arrival& arrival, const std::shared_ptr<EventStream>& stream,
    double now) {
  const Standing standing = StandingOf(arrival, now);
  const auto choice = [&](int32_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    return std::make_unique<Sequence>(
        next_id_ + i, arrival.to_encode.has_value(), arrival.form,
        rules_.tokenizer, stream, now, standing, i);
  };
  std::unique_ptr<Sequence> sequence = choice(0);
  for (int32_t i = 1; i < arrival.choices; ++i) sequence->Join(choice(i));
  return sequence;
}

void Engine::Encode(std::string text, bool add_special_tokens,
                    std::function<void(absl::StatusOr<Request>)> on_encoded) {
  if (rules_.tokenizer == nullptr) {
    return on_encoded(absl::FailedPreconditionError(
        "the model has no tokenizer; send token ids"));
  }
  Request request;
  request.has_text = true;
  request.text = std::move(text);
  request.add_special_tokens = add_special_tokens;
  absl::Status status = NoGroupError();
  {
    Monitor::Lock lock(monitor_);
    if (encoder_ != nullptr) {
      status = encoder_->Add(kNobody, std::move(request), on_encoded);
    }
  }
  if (!status.ok()) on_encoded(status);
}

Standing Engine::StandingOf(const Arrival& arrival, double now) {
  Standing standing;
  standing.tenant = tenants_.Of(arrival.tenant, now);
  const int64_t priority =
      int64_t{arrival.priority} + standing.tenant->row->priority;
  standing.priority = static_cast<int32_t>(std::clamp<int64_t>(
      priority, -RequestQueue::kMostPriority, RequestQueue::kMostPriority));
  if (arrival.timeout_seconds) {
    standing.deadline = now + *arrival.timeout_seconds;
  }
  standing.expected_tokens = arrival.expected_tokens;
  return standing;
}

absl::Status Engine::CheckArrival(Arrival* arrival, Sequence* sequence) const {
  H2O_RETURN_IF_ERROR(arrival->status);
  H2O_RETURN_IF_ERROR(CheckOpen());
  if (arrival->timeout_seconds && *arrival->timeout_seconds <= 0) {
    return absl::DeadlineExceededError(
        "the client's deadline had passed before the request was read");
  }
  if (arrival->to_encode) return absl::OkStatus();
  H2O_RETURN_IF_ERROR(
      sequence->SetSpec(std::move(arrival->spec), arrival->generated));
  return CanEverFit(sequence);
}

absl::Status Engine::CheckLimits(const Sequence& sequence, double now) const {
  return CheckQueueLimits(
      options_, queue_, sequence,
      queue_.EstimateWait(sequence.standing(), sequence.most_tokens(), now));
}

absl::Status Engine::CheckAllowance(const Sequence& sequence, double now) {
  TenantAccount* const tenant = sequence.standing().tenant;
  const std::optional<double> wait =
      tenants_.MissingAllowance(tenant, sequence.most_tokens(), now);
  if (!wait) return absl::OkStatus();
  return Refused(
      Refusal::kTenantTokens,
      absl::ResourceExhaustedError(absl::StrCat(
          "tenant ", tenant->row->name, " has used up its ",
          tenant->row->tokens_per_minute, " tokens per minute; the request's ",
          sequence.most_tokens(), " fit in ", *wait, " s")),
      wait);
}

void Engine::OnEncoded(uint64_t id, absl::StatusOr<Request> request) {
  std::vector<int32_t> generated;
  if (request.ok()) generated = request->generated;
  absl::StatusOr<SequenceSpec> spec =
      request.ok() ? SpecOf(*std::move(request), rules_) : request.status();
  Monitor::Lock lock(monitor_);
  Sequence* const sequence = queue_.FindRequest(id);
  if (sequence == nullptr) return;  // cancelled meanwhile
  const double now = clock_->Now();
  absl::Status status = spec.status();
  if (spec.ok()) {
    status = sequence->SetSpec(*std::move(spec), generated);
    if (status.ok() && !sequence->stranded()) status = CanEverFit(sequence);
  }
  if (status.ok()) {
    tenants_.Take(sequence->standing().tenant, sequence->SetAllowance());
    queue_.Refile(sequence->id(), now);
  } else {
    counters_.CountNotTaken(status);
    RefuseQueued(queue_.Remove(sequence->id(), now).get(), status);
  }
  Place(now);
}

void Engine::Cancel(uint64_t id, absl::Status reason) {
  Monitor::Lock lock(monitor_);
  const double now = clock_->Now();
  while (const Sequence* queued = queue_.FindRequest(id)) {
    EndQueued(queue_.Remove(queued->id(), now).get(), reason);
  }
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    group->work.FailRequest(id, reason, now, &counters_, &outbox_);
  }
  Place(now);
}

void Engine::CancelChoice(uint64_t id, int32_t choice, absl::Status reason) {
  Monitor::Lock lock(monitor_);
  const double now = clock_->Now();
  if (const auto queued = queue_.RemoveChoice(id + choice, now)) {
    EndQueued(queued.get(), reason);
  }
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    group->work.Fail(id + choice, reason, now, &counters_, &outbox_);
  }
  Place(now);
}

void Engine::Tick() {
  std::vector<std::thread> ended;
  {
    Monitor::Lock lock(monitor_);
    for (const std::unique_ptr<LiveGroup>& group : groups_) {
      group->found_over |= !group->work.workers().status().ok();
      LookWhetherItLeaves(group.get());
    }
    ExpireDeadlines();
    if (options_.max_queue_seconds > 0) ExpireQueued();
    ExpireStranded();
    Place(clock_->Now());
    ended.swap(ended_loops_);
  }
  for (std::thread& thread : ended) thread.join();
}

void Engine::LookWhetherItLeaves(LiveGroup* group) {
  if (draining_ || group->work.workers().leaving().ok()) return;
  const double now = clock_->Now();
  if (!group->leaves_since) {
    group->leaves_since = now;
    group->work.set_closed(true);
    placement_.Close(&group->work, now);
  }
  const double waited = now - *group->leaves_since;
  const bool done = group->work.num_running() == 0;
  group->released |= waited >= WorkerGroup::kLeavingSeconds &&
                     (done || waited >= options_.drain_seconds);
}

void Engine::Drain(double grace_seconds) {
  Monitor::Lock lock(monitor_);
  draining_ = true;
  // Workers that were told to stop with the coordinator stay to the end.
  for (const auto& group : groups_) group->work.set_closed(group->released);
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
  ++refused_at_doors_[static_cast<size_t>(reason)];
}

Engine::Counters Engine::counters() const {
  Monitor::Lock lock(monitor_);
  Counters c = counters_;
  for (int i = 0; i < kRefusals; ++i) {
    c.refused += refused_at_doors_[i];
    c.refused_for[i] += refused_at_doors_[i];
  }
  c.queued = queue_.size();
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    c.running += static_cast<int64_t>(group->work.num_running());
    c.slabs_held += group->work.admission().HeldSlabs();
    c.slabs_total += group->work.admission().TotalSlabs();
    c.headroom_sequences += group->work.HeadroomSequences();
  }
  c.head_fits = placement_.HasNext(clock_->Now());
  return c;
}

absl::Status Engine::Ready() const {
  Monitor::Lock lock(monitor_);
  H2O_RETURN_IF_ERROR(CheckOpen());
  absl::Status ready;
  for (const auto& group : groups_) {
    if (group->work.takes_requests()) return absl::OkStatus();
    const WorkerGroup& workers = group->work.workers();
    ready = workers.status().ok() ? workers.leaving() : workers.status();
  }
  return ready;
}

std::vector<GroupStatus> Engine::groups() const {
  Monitor::Lock lock(monitor_);
  const double now = clock_->Now();
  std::vector<GroupStatus> all;
  for (const auto& group : groups_) all.push_back(group->work.status(now));
  return all;
}

std::vector<TenantStatus> Engine::tenants() const {
  Monitor::Lock lock(monitor_);
  std::vector<TenantStatus> all;
  for (const TenantAccount* tenant : tenants_.all()) {
    all.push_back({.name = tenant->row->name,
                   .waiting = queue_.waiting(*tenant),
                   .running = tenant->running,
                   .pages = tenant->pages,
                   .tokens = tenant->tokens});
  }
  return all;
}

TenantStatus Engine::StatusOf(const TenantRow& tenant) {
  Monitor::Lock lock(monitor_);
  const double now = clock_->Now();
  TenantAccount* const account = tenants_.Of(tenant, now);
  return {.name = account->row->name,
          .waiting = queue_.waiting(*account),
          .running = account->running,
          .pages = account->pages,
          .tokens = account->tokens,
          .allowance = tenants_.Allowance(account, now)};
}

double Engine::queue_age_seconds() const {
  const double now = clock_->Now();
  Monitor::Lock lock(monitor_);
  return queue_.OldestSeconds(now);
}

absl::Status Engine::Progress(double longest) const {
  const double now = clock_->Now();
  Monitor::Lock lock(monitor_);
  for (const auto& group : groups_) {
    if (group->work.num_running() == 0) continue;
    const double stalled = now - group->work.busy_since();
    if (stalled <= longest) continue;
    return absl::UnavailableError(absl::StrCat(
        "requests run in group ", group->work.workers().info().number,
        ", but no step has ended for ", stalled, " s"));
  }
  return absl::OkStatus();
}

absl::Status Engine::CheckOpen() const {
  if (draining_ || stopping_) return ShutDownError();
  return groups_.empty() ? NoGroupError() : absl::OkStatus();
}

absl::Status Engine::CanEverFit(Sequence* sequence) const {
  absl::Status fits = NoGroupError();
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    fits = group->work.CanEverFit(sequence);
    if (!fits.ok()) continue;
    const TenantAccount* const tenant = sequence->standing().tenant;
    return tenant == nullptr
               ? fits
               : tenants_.CanEverRun(*tenant, sequence->choices(),
                                     SumOf(group->work.ChargeOf(sequence)));
  }
  return fits;
}

void Engine::CountPool() {
  int64_t pages = 0;
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    pages += group->work.admission().TotalSlabs();
  }
  tenants_.SetPoolPages(pages);
}

void Engine::Place(double now) {
  while (const std::optional<Placement::Choice> next = placement_.Next(now)) {
    next->group->Start(queue_.Take(next->sequence->id(), now), now);
    counters_.peak_slabs_held = std::max(counters_.peak_slabs_held,
                                         next->group->admission().HeldSlabs());
  }
}

void Engine::ExpireDeadlines() {
  const double now = clock_->Now();
  for (const auto& sequence : queue_.RemoveDue(now)) {
    EndQueued(sequence.get(), sequence->DeadlineError(now));
  }
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    group->work.FailExpired(now, &counters_, &outbox_);
  }
}

void Engine::ExpireQueued() {
  const double now = clock_->Now();
  for (const std::unique_ptr<Sequence>& sequence :
       queue_.RemoveExpired(options_.max_queue_seconds, now)) {
    ++counters_.refused_for[static_cast<size_t>(Refusal::kQueueSeconds)];
    EndQueued(sequence.get(),
              Refused(Refusal::kQueueSeconds,
                      absl::ResourceExhaustedError(absl::StrCat(
                          "the request waited ", sequence->queued_seconds(now),
                          " s in the queue; the limit is ",
                          options_.max_queue_seconds, " s")),
                      queue_.EstimateWait(sequence->standing(),
                                          sequence->most_tokens(), now)));
  }
}

void Engine::ExpireStranded() {
  const bool replays = options_.replay != ReplayMode::kOff;
  const double longest = replays ? options_.replay_timeout_seconds : 0;
  const double now = clock_->Now();
  const auto is_over = [&](const Sequence& s) {
    return s.stranded() && now - s.stranded()->since >= longest;
  };
  for (const auto& sequence : queue_.RemoveIf(is_over, now)) {
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

void Engine::RefuseQueued(Sequence* sequence, const absl::Status& why) {
  for (const std::unique_ptr<Sequence>& other : sequence->TakeOthers()) {
    RefuseQueued(other.get(), why);
  }
  tenants_.GiveBack(sequence->standing().tenant, sequence->allowance());
  outbox_.Add(sequence->events(), sequence->Fail(why, clock_->Now()));
}

void Engine::EndQueued(Sequence* sequence, const absl::Status& reason) {
  for (const std::unique_ptr<Sequence>& other : sequence->TakeOthers()) {
    EndQueued(other.get(), reason);
  }
  if (sequence->state() == Sequence::State::kEncoding &&
      queue_.FindRequest(sequence->request_id()) == nullptr) {
    encoder_->Remove(sequence->request_id());
  }
  const double now = clock_->Now();
  tenants_.GiveBack(sequence->standing().tenant, sequence->allowance());
  StreamEvent last = sequence->Fail(reason, now);
  counters_.CountEnd(last, sequence->queued_seconds(now));
  outbox_.Add(sequence->events(), std::move(last));
}

void Engine::FailAll(const absl::Status& reason) {
  const double now = clock_->Now();
  for (const auto& sequence :
       queue_.RemoveIf([](Sequence&) { return true; }, now)) {
    EndQueued(sequence.get(), reason);
  }
  for (const std::unique_ptr<LiveGroup>& group : groups_) {
    group->work.FailAll(reason, now, &counters_, &outbox_);
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
      return stopping_ || group->found_over || group->released || work.IsBusy();
    });
    if (stopping_) return absl::OkStatus();
    if (group->found_over) return workers.status();
    if (group->released) {
      if (!work.has_plans_in_flight()) return absl::OkStatus();
    } else if (work.CanPlan()) {
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
    const double now = clock_->Now();
    const size_t before = work.num_running();
    work.Deliver(std::move(result), now, &counters_, &outbox);
    const std::string non_finite = work.TakeNonFinite();
    if (work.num_running() < before) Place(now);
    ++delivering_;
    lock.Release();
    outbox.Deliver();
    if (!non_finite.empty() && group->observer.on_non_finite) {
      group->observer.on_non_finite(non_finite, work.history());
    }
    lock.Acquire();
    --delivering_;
  }
}

void Engine::Loop(LiveGroup* group) {
  const absl::Status status = RunPlans(group);
  Outbox outbox;
  std::unique_ptr<LiveGroup> mine;
  bool leaves = false;
  {
    Monitor::Lock lock(monitor_);
    mine = Remove(group);
    leaves = status.ok() && mine->released && !stopping_;
    if (leaves) EndWithout(mine.get(), mine->work.workers().leaving(), &outbox);
    if (!status.ok()) EndWithout(mine.get(), status, &outbox);
    ++delivering_;
  }
  if (leaves) mine->work.workers().Release();
  if (!status.ok()) mine->work.workers().Abort(status);
  outbox.Deliver();
  if (!status.ok() && mine->observer.on_lost) {
    mine->observer.on_lost(status, mine->work.history());
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
  placement_.Remove(&removed->work, clock_->Now());
  CountPool();
  return removed;
}

bool Engine::CouldRun(Sequence* sequence) const {
  return sequence->state() == Sequence::State::kEncoding
             ? !groups_.empty()
             : CanEverFit(sequence).ok();
}

void Engine::EndWithout(LiveGroup* gone, const absl::Status& reason,
                        Outbox* outbox) {
  if (options_.replay == ReplayMode::kOff) {
    gone->work.FailAll(reason, clock_->Now(), &counters_, outbox);
  } else {
    Requeue(gone, reason, outbox);
  }
  // Requests that no remaining group can run would wait for ever.
  MarkStranded(reason);
  if (options_.replay == ReplayMode::kOff) ExpireStranded();
  Place(clock_->Now());
}

void Engine::MarkStranded(const std::optional<absl::Status>& lost) {
  const double now = clock_->Now();
  std::vector<uint64_t> changed;
  queue_.ForEach([&](Sequence& s) ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_) {
    const bool could_run = CouldRun(&s);
    if (could_run == !s.stranded()) return;
    if (!could_run && !lost) return;
    s.SetStranded(could_run ? std::nullopt
                            : std::optional(Sequence::Stranded{now, *lost}));
    changed.push_back(s.id());
  });
  for (const uint64_t id : changed) queue_.Refile(id, now);
}

void Engine::Requeue(LiveGroup* gone, const absl::Status& reason,
                     Outbox* outbox) {
  const double now = clock_->Now();
  const Sequence::Move move =
      gone->released ? Sequence::Move::kDrained : Sequence::Move::kLost;
  for (std::unique_ptr<Sequence>& sequence : gone->work.TakeAll(now)) {
    if (move == Sequence::Move::kDrained || sequence->CanReplay()) {
      ++counters_.replays;
      sequence->Requeue(options_.replay, move);
      queue_.Push(std::move(sequence), now);
      continue;
    }
    ++counters_.quarantined;
    tenants_.GiveBack(sequence->standing().tenant,
                      sequence->allowance() - sequence->used_tokens());
    StreamEvent last = sequence->Fail(QuarantinedError(reason), now);
    counters_.CountEnd(last, sequence->queued_seconds(now));
    outbox->Add(sequence->events(), std::move(last));
  }
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
