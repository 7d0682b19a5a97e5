// Launches step plans and collects their results: the bookkeeping around the
// prefill and decode passes.
#include "worker/shard_runner.h"

#include <algorithm>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "parallel/failure_latch.h"
#include "worker/decode_pass.h"
#include "worker/open_sequences.h"
#include "worker/prefill_pass.h"
#include "worker/shard_setup.h"
#include "worker/step_reports.h"
#include "worker/token_head.h"

namespace h2o {
namespace {

// Over what all ranks know alike after a step; differs where ranks diverged.
uint64_t Checksum(uint64_t step, const std::map<uint64_t, Observed>& observed) {
  Fnv1a hash;
  hash.AddNumber(step);
  for (const auto& [id, o] : observed) {
    hash.AddNumber(id).AddNumber(o.length).AddNumber(o.last_token);
  }
  return hash.value();
}

// A plan is launched, which enqueues all of its work on the device, and later
// collected, which waits for it and reads the tokens.  Up to kMaxInFlight plans
// are launched and not collected.
class Runner final : public ShardRunner {
 public:
  explicit Runner(std::unique_ptr<ShardParts> parts)
      : parts_(std::move(parts)),
        head_(parts_.get()),
        reports_(parts_.get(), &head_),
        prefill_(parts_.get(), &head_, &reports_),
        decode_(parts_.get(), &head_, &reports_) {}

  absl::Status Launch(const StepPlan& plan) override;
  int in_flight() const override { return static_cast<int>(steps_.size()); }
  bool Ready() override {
    return !steps_.empty() && parts_->backend->Reached(steps_.front().end);
  }
  absl::StatusOr<StepResult> Collect() override;

  const RankInfo& info() const override { return parts_->info; }
  int64_t free_slabs() const override { return parts_->cache->free_slabs(); }
  void Abort(absl::Status reason) override {
    aborted_.Set(reason);
    parts_->communicator->Abort(std::move(reason));
  }

 private:
  absl::Status Admit(const SequenceSpec& spec, StepInFlight* step);
  absl::Status CheckSpec(const SequenceSpec& spec) const;
  absl::Status CheckFork(const SequenceSpec& spec) const;
  absl::Status CheckTokens(const SequenceSpec& spec) const;
  // Uploads the tokens that are given and the state that decode steps start
  // from.
  void UploadState(const OpenSequence& sequence);
  absl::Status Retire(uint64_t id, StepInFlight* step);

  // Moves the step's tokens and the sequences that it opened and closed to
  // `observed` and to the result.
  void Observe(StepInFlight* step);
  void ReadTimes(StepInFlight* step);

  FailureLatch aborted_;
  const std::unique_ptr<ShardParts> parts_;
  TokenHead head_;
  StepReports reports_;
  PrefillPass prefill_;
  DecodePass decode_;

  uint64_t last_step_ = 0;  // launched
  OpenSequences open_;
  std::deque<StepInFlight> steps_;
};

absl::Status Runner::Launch(const StepPlan& plan) {
  H2O_CHECK(in_flight() < kMaxInFlight) << in_flight();
  if (plan.step != last_step_ + 1) {
    return absl::InternalError(absl::StrCat("plan ", plan.step, " follows ",
                                            last_step_,
                                            "; ranks run in lockstep"));
  }
  last_step_ = plan.step;
  StepInFlight step;
  step.result.step = plan.step;
  step.ring = static_cast<int>(plan.step % kMaxInFlight);
  for (uint64_t id : plan.retire) H2O_RETURN_IF_ERROR(Retire(id, &step));
  for (const SequenceSpec& spec : plan.admit) {
    H2O_RETURN_IF_ERROR(Admit(spec, &step));
  }
  if (!steps_.empty()) step.end_before = steps_.back().end;
  step.start = parts_->backend->Mark();
  for (const PrefillSlice& slice : plan.prefill) {
    H2O_RETURN_IF_ERROR(prefill_.Run(slice, &open_, &step));
  }
  step.prefilled = parts_->backend->Mark();
  H2O_RETURN_IF_ERROR(decode_.Run(plan.decode, &open_, &step));
  step.end = parts_->backend->Mark();
  if (parts_->timed != nullptr) {
    step.result.sum_wait_seconds = parts_->timed->TakeSeconds();
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<StepResult> Runner::Collect() {
  H2O_CHECK(!steps_.empty());
  StepInFlight step = std::move(steps_.front());
  steps_.pop_front();
  const absl::Status waited = parts_->backend->Wait(step.end);
  // An abort unmaps memory that kernels may still use, so that the device fails
  // too; the abort is the reason to report.
  if (aborted_.failed()) return aborted_.Get();
  H2O_RETURN_IF_ERROR(waited);
  Observe(&step);
  ReadTimes(&step);
  step.result.checksum = Checksum(step.result.step, open_.observed);
  return std::move(step.result);
}

void Runner::Observe(StepInFlight* step) {
  for (uint64_t id : step->retired) open_.observed.erase(id);
  for (const auto& [id, length] : step->admitted) {
    open_.observed[id].length = length;
  }
  const RowResult* row = head_.Fetched(*step);
  for (size_t i = 0; i < step->emitted.size(); ++i) {
    const uint64_t id = step->emitted[i];
    const RowResult r = row[i];
    const bool has_token = r.token != kNoToken;
    if (!has_token && r.finish == FinishReason::kNone) {
      continue;  // it finished in the step before
    }
    Observed& o = open_.observed.at(id);
    if (has_token) ++o.length;
    o.last_token = r.token;
    step->result.tokens.push_back({id, has_token ? r.token : 0, r.finish});
    if (has_token && step->reports_logprobs[i]) {
      step->result.logprobs.push_back(
          {id, o.length - 1, {ToLogprobs(head_.FetchedLogprobs(*step)[i])}});
    }
    if (r.kept_scores > 0) {
      step->result.scores.push_back({id, o.length - 1, r.kept_scores});
    }
  }
}

void Runner::ReadTimes(StepInFlight* step) {
  Backend& backend = *parts_->backend;
  StepResult& result = step->result;
  result.prefill_seconds = backend.SecondsBetween(step->start, step->prefilled);
  result.decode_seconds = backend.SecondsBetween(step->prefilled, step->end);
  if (step->end_before) {
    result.idle_seconds =
        backend.SecondsBetween(*step->end_before, step->start);
  }
  for (const auto& [before, after] : step->layers) {
    result.slowest_layer_seconds = std::max(
        result.slowest_layer_seconds, backend.SecondsBetween(before, after));
  }
}

absl::Status Runner::Admit(const SequenceSpec& spec, StepInFlight* step) {
  H2O_RETURN_IF_ERROR(CheckSpec(spec));
  const absl::Status opened =
      parts_->cache->Open(spec.id, spec.policy, spec.num_positions());
  if (!opened.ok()) {
    return absl::InternalError(
        absl::StrCat("admission was not exact: ", opened.message()));
  }
  OpenSequence& sequence = open_.by_id[spec.id];
  sequence.spec = spec;
  sequence.seat = parts_->cache->Seat(spec.id);
  UploadState(sequence);
  step->admitted.emplace_back(spec.id, sequence.prompt_length());
  return absl::OkStatus();
}

absl::Status Runner::CheckSpec(const SequenceSpec& spec) const {
  const ModelConfig& config = parts_->config;
  if (open_.by_id.contains(spec.id) ||
      static_cast<int>(open_.by_id.size()) >= parts_->max_sequences) {
    return absl::InternalError(absl::StrCat("the plan admits sequence ",
                                            spec.id,
                                            ", which is open already or over "
                                            "the limit of ",
                                            parts_->max_sequences));
  }
  const int64_t given =
      spec.generated + static_cast<int64_t>(spec.forced.size());
  if (spec.prompt.empty() || spec.max_tokens < 1 ||
      spec.num_positions() > config.max_positions || given >= spec.max_tokens) {
    return absl::InternalError(absl::StrCat("the plan admits sequence ",
                                            spec.id, " of ", spec.prompt.size(),
                                            " + ", spec.max_tokens, " tokens"));
  }
  H2O_RETURN_IF_ERROR(CheckTokens(spec));
  const size_t per_head =
      static_cast<size_t>(config.num_layers) * config.qkv.kv_heads;
  if (spec.policy.slots.size() != 1 && spec.policy.slots.size() != per_head) {
    return absl::InternalError(absl::StrCat(
        "the plan has budgets for ", spec.policy.slots.size(), " heads"));
  }
  return spec.fork_of == 0 ? absl::OkStatus() : CheckFork(spec);
}

absl::Status Runner::CheckFork(const SequenceSpec& spec) const {
  const auto it = open_.by_id.find(spec.fork_of);
  if (it != open_.by_id.end() && !it->second.prefilled &&
      IsForkOf(spec, it->second.spec)) {
    return absl::OkStatus();
  }
  return absl::InternalError(
      absl::StrCat("the plan forks sequence ", spec.id, " from ", spec.fork_of,
                   ", which is no open sequence with the same prompt, policy "
                   "and max_tokens that waits for its prefill"));
}

// Kernels use tokens as indices.
absl::Status Runner::CheckTokens(const SequenceSpec& spec) const {
  const ModelConfig& config = parts_->config;
  const size_t stops = spec.stop_tokens.size() +
                       (spec.ignore_eos ? 0 : config.stop_tokens.size());
  if (spec.logit_bias.size() > kMaxLogitBiases || stops > kMaxStopTokens ||
      spec.top_logprobs > kMostTopLogprobs) {
    return absl::InternalError(absl::StrCat(
        "the plan has ", spec.logit_bias.size(), " biases, ", stops,
        " stop tokens and ", spec.top_logprobs, " logprobs of one sequence"));
  }
  std::vector<int32_t> named = spec.stop_tokens;
  for (const LogitBias& bias : spec.logit_bias) named.push_back(bias.token);
  for (const std::vector<int32_t>* tokens :
       {&spec.prompt, &spec.forced, &std::as_const(named)}) {
    for (int32_t token : *tokens) {
      if (token < 0 || token >= config.vocab_size) {
        return absl::InternalError(absl::StrCat("the plan has token ", token));
      }
    }
  }
  return absl::OkStatus();
}

void Runner::UploadState(const OpenSequence& sequence) {
  const SequenceSpec& spec = sequence.spec;
  std::vector<int32_t> given = spec.prompt;
  given.insert(given.end(), spec.forced.begin(), spec.forced.end());
  SequenceState state;
  state.heads = parts_->cache->Heads(spec.id);
  state.tokens = parts_->TokensAt(sequence.seat);
  state.num_generated = spec.generated;
  state.num_forced = spec.generated + static_cast<int32_t>(spec.forced.size());
  state.position = sequence.prompt_length() - 1;
  state.max_tokens = spec.max_tokens;
  const auto add_stops = [&](const std::vector<int32_t>& stops) {
    std::copy(stops.begin(), stops.end(),
              state.stop_tokens + state.num_stop_tokens);
    state.num_stop_tokens += static_cast<int32_t>(stops.size());
  };
  if (!spec.ignore_eos) add_stops(parts_->config.stop_tokens);
  add_stops(spec.stop_tokens);
  state.sampling = spec.sampling;
  state.reports_scores = spec.scores;
  state.top_logprobs = spec.top_logprobs;
  state.min_tokens = spec.min_tokens;
  state.num_biases = static_cast<int32_t>(spec.logit_bias.size());
  LogitBias* const biases = parts_->BiasesAt(sequence.seat);
  state.biases = biases;
  if (state.num_biases > 0) parts_->backend->UploadAll(spec.logit_bias, biases);
  parts_->backend->UploadAll(given, state.tokens);
  parts_->backend->Upload(&state, sizeof(state),
                          parts_->workspace.states + sequence.seat);
}

absl::Status Runner::Retire(uint64_t id, StepInFlight* step) {
  H2O_RETURN_IF_ERROR(open_.Find(id).status());
  if (const OpenSequence* heir = open_.HandOver(id)) {
    parts_->CopyCache(id, heir->spec.id);  // of the layers that are done
  }
  open_.Close(id);
  parts_->cache->Close(id);
  step->retired.push_back(id);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StepResult> ShardRunner::Run(const StepPlan& plan) {
  H2O_RETURN_IF_ERROR(Launch(plan));
  return Collect();
}

std::unique_ptr<ShardRunner> ShardRunner::Over(
    std::unique_ptr<ShardParts> parts) {
  return std::make_unique<Runner>(std::move(parts));
}

absl::StatusOr<std::unique_ptr<ShardRunner>> ShardRunner::Create(
    const ShardOptions& options, std::unique_ptr<Communicator> communicator,
    const Clock* clock, std::function<void(double)> progress) {
  H2O_ASSIGN_OR_RETURN(std::unique_ptr<ShardParts> parts,
                       MakeShardParts(options, std::move(communicator), clock,
                                      std::move(progress)));
  return Over(std::move(parts));
}

}  // namespace h2o
