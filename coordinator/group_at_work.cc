// Runs sequences on one group: pages, plans, and the tokens that come back.
#include "coordinator/group_at_work.h"

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/kv_page.h"
#include "kv/kept_mass.h"

namespace h2o {
namespace {

// What the sequence would be charged if it kept every token.
SlabCharge FullCharge(const Sequence& sequence, const Admission& admission) {
  const int64_t stored = sequence.max_stored_tokens();
  KvPolicy full;
  full.slots = {SlotsFor(KvPolicyName::kFull, static_cast<int32_t>(stored))};
  return admission.ChargeOf(full, stored);
}

// By sequence and position, whichever rank reported them.
void SortTraces(std::vector<HeadTrace>* traces) {
  std::stable_sort(traces->begin(), traces->end(),
                   [](const HeadTrace& a, const HeadTrace& b) {
                     return std::tie(a.sequence_id, a.pos, a.layer, a.head) <
                            std::tie(b.sequence_id, b.pos, b.layer, b.head);
                   });
}

// Moves those out of `items` that belong to sequence `id` and to its token.
template <typename Item, typename Belongs>
std::vector<Item> TakeOf(uint64_t id, std::vector<Item>* items,
                         Belongs&& belongs) {
  std::vector<Item> taken;
  for (Item& item : *items) {
    if (item.sequence_id != id || !belongs(item)) continue;
    taken.push_back(std::exchange(item, Item{}));
  }
  return taken;
}

}  // namespace

GroupAtWork::GroupAtWork(uint64_t shape, std::unique_ptr<WorkerGroup> workers,
                         const EngineOptions& options, TenantAccounts* tenants,
                         double now)
    : shape_(shape),
      workers_(std::move(workers)),
      max_sequences_(options.max_sequences),
      history_(workers_->info().tp()),
      tenants_(tenants),
      admission_(workers_->info()),
      scheduler_(workers_->info().config().num_layers,
                 options.stall_target_seconds, workers_->info().packed_tokens(),
                 options.longest_step_seconds),
      answered_(now) {}

const SlabCharge& GroupAtWork::ChargeOf(Sequence* sequence) const {
  return sequence->ChargeIn(shape_, admission_);
}

int64_t GroupAtWork::BytesOf(const SlabCharge& charge) const {
  return SumOf(charge) * workers_->info().geometry().SlabBytes();
}

TenantCharge GroupAtWork::TenantChargeOf(Sequence* sequence) const {
  return {.most_tokens = sequence->most_tokens(),
          .pages = SumOf(ChargeOf(sequence))};
}

absl::Status GroupAtWork::CanEverFit(Sequence* sequence) const {
  const int64_t choices = sequence->choices();
  if (choices > max_sequences_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request can never fit: it has ", choices,
                     " choices, and a group runs at most ", max_sequences_,
                     " sequences; ask for a smaller n"));
  }
  return admission_.CanEverFit(ChargeOf(sequence));
}

bool GroupAtWork::Fits(Sequence* sequence) const {
  return has_seats(sequence->choices()) && admission_.Fits(ChargeOf(sequence));
}

int64_t GroupAtWork::HeadroomSequences() const {
  const int64_t seats = max_sequences_ - static_cast<int64_t>(running_.size());
  if (usual_charge_ == 0) return seats;
  const double free = static_cast<double>(admission_.FreeSlabs());
  return std::min(seats, static_cast<int64_t>(free / usual_charge_));
}

void GroupAtWork::Start(std::unique_ptr<Sequence> sequence, double now) {
  const uint64_t source = sequence->id();
  std::vector<std::unique_ptr<Sequence>> forks = sequence->TakeOthers();
  StartOne(std::move(sequence), 0, now);
  for (auto& fork : forks) StartOne(std::move(fork), source, now);
}

void GroupAtWork::StartOne(std::unique_ptr<Sequence> sequence, uint64_t fork_of,
                           double now) {
  const SlabCharge& charge = ChargeOf(sequence.get());
  admission_.Charge(charge);
  constexpr double kShareOfNewest = 1.0 / 16;
  const auto slabs =
      static_cast<double>(*std::max_element(charge.begin(), charge.end()));
  usual_charge_ =
      usual_charge_ == 0
          ? slabs
          : usual_charge_ + kShareOfNewest * (slabs - usual_charge_);
  tenants_->Start(sequence->standing().tenant, TenantChargeOf(sequence.get()),
                  now);
  sequence->Start(BytesOf(charge), BytesOf(FullCharge(*sequence, admission_)),
                  now);
  if (running_.empty()) busy_since_ = now;
  SequenceSpec spec = sequence->SpecToRun();
  spec.fork_of = fork_of;
  scheduler_.Admit(std::move(spec));
  deadlines_.Add(*sequence);
  const uint64_t id = sequence->id();
  running_[id] = std::move(sequence);
}

void GroupAtWork::Leave(Running it, double now) {
  // Plans run in order: a sequence that is admitted from now on gets these
  // pages after the plan that retires their holder.
  Sequence* const sequence = it->second.get();
  TenantAccount* const tenant = sequence->standing().tenant;
  const int64_t used = sequence->used_tokens();
  // If nobody has counted the prompt, the next choice of the request will.
  if (const Running next = std::next(it);
      next != running_.end() && sequence->counts_prompt() &&
      !sequence->has_begun() &&
      next->second->request_id() == sequence->request_id()) {
    next->second->CountPrompt();
  }
  deadlines_.Remove(*sequence);
  scheduler_.Retire(it->first);
  admission_.Release(ChargeOf(sequence));
  tenants_->End(tenant, TenantChargeOf(sequence), used, now);
  tenants_->GiveBack(tenant, sequence->allowance() - used);
  running_.erase(it);
}

bool GroupAtWork::Fail(uint64_t id, const absl::Status& reason, double now,
                       EngineCounters* counters, Outbox* outbox) {
  const Running it = running_.find(id);
  if (it == running_.end()) return false;
  StreamEvent last = it->second->Fail(reason, now);
  counters->CountEnd(last, it->second->queued_seconds(now));
  outbox->Add(it->second->events(), std::move(last));
  Leave(it, now);
  return true;
}

void GroupAtWork::FailRequest(uint64_t request_id, const absl::Status& reason,
                              double now, EngineCounters* counters,
                              Outbox* outbox) {
  std::vector<uint64_t> choices;
  for (auto it = running_.lower_bound(request_id);
       it != running_.end() && it->second->request_id() == request_id; ++it) {
    choices.push_back(it->first);
  }
  // Forks first: so none takes the place of a source, to end at once.
  for (auto id = choices.rbegin(); id != choices.rend(); ++id) {
    Fail(*id, reason, now, counters, outbox);
  }
}

void GroupAtWork::FailAll(const absl::Status& reason, double now,
                          EngineCounters* counters, Outbox* outbox) {
  while (!running_.empty()) {
    Fail(running_.begin()->first, reason, now, counters, outbox);
  }
}

void GroupAtWork::FailExpired(double now, EngineCounters* counters,
                              Outbox* outbox) {
  for (const uint64_t id : deadlines_.Due(now)) {
    Fail(id, running_.at(id)->DeadlineError(now), now, counters, outbox);
  }
}

std::vector<std::unique_ptr<Sequence>> GroupAtWork::TakeAll(double now) {
  std::vector<std::unique_ptr<Sequence>> all;
  deadlines_.Clear();
  for (auto& [id, sequence] : std::exchange(running_, {})) {
    // What it took will be taken again; it is paid for once.
    tenants_->End(sequence->standing().tenant, TenantChargeOf(sequence.get()),
                  0, now);
    all.push_back(std::move(sequence));
  }
  return all;
}

GroupStatus GroupAtWork::status(double now) const {
  GroupStatus status;
  status.number = workers_->info().number;
  status.running = static_cast<int64_t>(running_.size());
  status.busy_since = busy_since_;
  status.leaving = std::string(workers_->leaving().message());
  const GroupInfo& info = workers_->info();
  const std::vector<double> answers = workers_->last_answers();
  int64_t heads = 0;
  for (int rank = 0; rank < info.tp(); ++rank) {
    GroupStatus::Rank& r = status.ranks.emplace_back();
    r.slabs_held = admission_.held(rank);
    r.slabs_total = admission_.total(rank);
    if (!info.places.empty()) r.place = info.places[rank];
    r.steps = history_.rank(rank);
    r.recent_seconds = history_.RecentSeconds(rank);
    r.last_step_age = now - (answers.empty() ? answered_ : answers[rank]);
    heads += info.config().Shard(rank, info.tp()).kv_heads.size();
  }
  const KvGeometry& geometry = info.geometry();
  status.slots_of_a_head = admission_.TotalSlabs() * geometry.SlabBytes() /
                           geometry.PageBytes(geometry.formats[0]) *
                           kPageSlots / (heads * geometry.num_layers);
  return status;
}

StepPlan GroupAtWork::MakePlan(double now) {
  ++plans_in_flight_;
  StepPlan plan = scheduler_.MakePlan();
  history_.Sent(plan, admission_.HeldSlabs(), now);
  return plan;
}

void GroupAtWork::Deliver(GroupResult answer, double now,
                          EngineCounters* counters, Outbox* outbox) {
  --plans_in_flight_;
  busy_since_ = answered_ = now;
  history_.Done(answer, now);
  StepResult& result = answer.step;
  scheduler_.Observe(result);
  Account(result, now, counters);
  SortTraces(&result.trace);
  for (const TokenResult& token : result.tokens) {
    Accept(token, &result, now, counters, outbox);
  }
}

void GroupAtWork::Account(const StepResult& result, double now,
                          EngineCounters* counters) {
  ++counters->steps;
  counters->slowest_layer_seconds =
      std::max(counters->slowest_layer_seconds, result.slowest_layer_seconds);
  counters->prefill_seconds += result.prefill_seconds;
  counters->decode_seconds += result.decode_seconds;
  counters->idle_seconds += result.idle_seconds;
  if (last_result_ >= 0) {
    ++counters->intervals;
    counters->interval_seconds += now - last_result_;
    counters->step_seconds += result.prefill_seconds + result.decode_seconds;
  }
  last_result_ = plans_in_flight_ > 0 ? now : -1;
}

void GroupAtWork::TakeScores(StepResult* result, Sequence* sequence) const {
  const int32_t queries = sequence->next_logit_position() + 1;
  const std::vector<KeptScores> of_ranks =
      TakeOf(sequence->id(), &result->scores,
             [queries](const KeptScores& s) { return s.queries == queries; });
  if (of_ranks.empty()) return;
  double sum = 0;
  for (const KeptScores& scores : of_ranks) sum += scores.sum;
  const ModelConfig& config = workers_->info().config();
  sequence->SetMassKept(AttentionMassKept(sum, queries, sequence->spec().policy,
                                          config.qkv, config.num_layers));
}

void GroupAtWork::Accept(const TokenResult& token, StepResult* result,
                         double now, EngineCounters* counters, Outbox* outbox) {
  const Running it = running_.find(token.sequence_id);
  if (it == running_.end()) return;  // ended after the plan was made
  Sequence& sequence = *it->second;
  if (token.finish == FinishReason::kNonFinite && non_finite_.empty()) {
    non_finite_ = absl::StrCat(
        "logits at position ", sequence.next_logit_position(), " of request ",
        sequence.id(), " are not finite; it ended, others go on");
  }
  // One plan may hold a sequence's prefill and its first decode step.  So
  // traces and logits are matched to a token by their positions.
  const int32_t traced = sequence.next_traced_position();
  const int32_t last_logit = sequence.next_logit_position();
  TokenReports reports;
  reports.trace =
      TakeOf(token.sequence_id, &result->trace,
             [traced](const HeadTrace& t) { return t.pos == traced; });
  reports.logits = TakeOf(token.sequence_id, &result->logits,
                          [last_logit](const LogitRows& rows) {
                            return rows.first_position <= last_logit;
                          });
  reports.logprobs = TakeOf(token.sequence_id, &result->logprobs,
                            [last_logit](const LogprobRows& rows) {
                              return rows.first_position <= last_logit + 1;
                            });
  TakeScores(result, &sequence);
  const std::optional<double> token_before = sequence.last_token();
  std::optional<StreamEvent> event =
      sequence.Accept(token, std::move(reports), now);
  if (!event) return;  // the client has this token
  const double seconds = sequence.queued_seconds(now);
  if (token_before && !event->tokens.empty()) {
    counters->token_gap_seconds.Observe(now - *token_before);
  }
  if (event->seed) {
    counters->CountFirstToken(seconds, sequence.prompt_tokens());
  }
  counters->generated_tokens += static_cast<int64_t>(event->tokens.size());
  if (event->done) counters->CountEnd(*event, seconds);
  outbox->Add(sequence.events(), *std::move(event));
  if (sequence.state() != Sequence::State::kDone) return;
  tenants_->CountRun(sequence.running_seconds(now));
  Leave(it, now);
}

}  // namespace h2o
