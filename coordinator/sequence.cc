// Turns tokens into events: text, stop strings, usage.
#include "coordinator/sequence.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace h2o {

StopMatcher::Match StopMatcher::Push(std::string_view piece) {
  held_.append(piece);
  size_t first = std::string::npos;
  const std::string* found = nullptr;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at >= first) continue;
    first = at;
    found = &stop;
  }
  if (found != nullptr) return {held_.substr(0, first), found};
  // Keep the longest end that begins a stop string.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    size_t n = std::min(stop.size() - 1, held_.size());
    for (; n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) break;
    }
    keep = std::max(keep, n);
  }
  Match match{held_.substr(0, held_.size() - keep)};
  held_.erase(0, held_.size() - keep);
  return match;
}

Sequence::Sequence(uint64_t id, bool was_text, AnswerForm form,
                   const Tokenizer* tokenizer,
                   std::shared_ptr<EventStream> events, double now,
                   Standing standing, int32_t choice)
    : id_(id),
      choice_(choice),
      was_text_(was_text),
      events_(std::move(events)),
      decoder_(tokenizer ? std::make_unique<IncrementalDecoder>(tokenizer)
                         : nullptr),
      include_stop_(form.include_stop),
      logprobs_(form.logprobs),
      report_prompt_(form.report_prompt),
      stops_(std::move(form.stops)),
      standing_(standing),
      submitted_(now) {}

void Sequence::Join(std::unique_ptr<Sequence> other) {
  H2O_CHECK(other->request_id() == request_id()) << other->id_;
  other->counts_prompt_ = false;
  others_.push_back(std::move(other));
  charges_.clear();
}

bool Sequence::has_choice(uint64_t id) const {
  return id == id_ || absl::c_any_of(others_, [id](const auto& other) {
           return other->id_ == id;
         });
}

std::vector<std::unique_ptr<Sequence>> Sequence::TakeOthers() {
  charges_.clear();
  return std::exchange(others_, {});
}

std::unique_ptr<Sequence> Sequence::TakeChoice(
    uint64_t id, std::unique_ptr<Sequence>* lead) {
  std::unique_ptr<Sequence> taken;
  std::vector<std::unique_ptr<Sequence>> all = (*lead)->TakeOthers();
  all.insert(all.begin(), std::move(*lead));
  for (std::unique_ptr<Sequence>& choice : all) {
    if (choice->id_ == id) {
      taken = std::move(choice);
    } else if (*lead == nullptr) {
      *lead = std::move(choice);
      (*lead)->counts_prompt_ = true;
      if (taken != nullptr) (*lead)->stranded_ = taken->stranded_;
    } else {
      (*lead)->Join(std::move(choice));
    }
  }
  H2O_CHECK(taken != nullptr) << "choice " << id;
  return taken;
}

int64_t Sequence::SetAllowance() {
  const int64_t each = most_tokens() / choices();
  int64_t more = each - std::exchange(allowance_, each);
  for (const auto& other : others_) more += other->SetAllowance();
  return more;
}

absl::Status Sequence::SetSpec(SequenceSpec spec,
                               const std::vector<int32_t>& generated) {
  H2O_CHECK(state_ == State::kEncoding) << "sequence " << id_;
  for (const auto& other : others_) {
    H2O_RETURN_IF_ERROR(other->SetSpec(spec));
  }
  state_ = State::kQueued;
  spec_ = std::move(spec);
  spec_.id = id_;
  spec_.sampling.seed += choice_;
  spec_.scores = stops_.any();
  given_ = static_cast<int32_t>(generated.size());
  // Their text is known to the client, but it may begin a character or a stop
  // string that the next token ends.
  for (int32_t token : generated) {
    tokens_.push_back(token);
    StreamEvent known;
    AddText(&known);
    if (known.finish != FinishReason::kNone) {
      return absl::InvalidArgumentError(
          absl::StrCat("generated holds a stop string, which ends at token ",
                       token, "; there is nothing to go on with"));
    }
  }
  return absl::OkStatus();
}

SequenceSpec Sequence::SpecToRun() const {
  SequenceSpec spec = spec_;
  if (tokens_.empty()) return spec;
  if (first_token_) spec.prompt_logprobs = false;  // the client has them
  if (prefills_tokens_) {
    spec.prompt.insert(spec.prompt.end(), tokens_.begin(), tokens_.end());
    spec.generated = num_tokens();
  } else {
    spec.forced = tokens_;
  }
  return spec;
}

void Sequence::Requeue(ReplayMode mode, Move move) {
  H2O_CHECK(state_ == State::kRunning) << "sequence " << id_;
  H2O_CHECK(move == Move::kDrained || CanReplay()) << "sequence " << id_;
  if (move == Move::kLost) ++losses_;
  state_ = State::kQueued;
  ++replays_;
  received_ = 0;
  prefills_tokens_ = mode == ReplayMode::kFast;
}

const SlabCharge& Sequence::ChargeIn(uint64_t shape,
                                     const Admission& admission) {
  H2O_CHECK(state_ != State::kEncoding) << "sequence " << id_;
  for (const auto& [number, charge] : charges_) {
    if (number == shape) return charge;
  }
  SlabCharge charge = admission.ChargeOf(spec_.policy, max_stored_tokens());
  for (int64_t& slabs : charge) slabs *= choices();
  return charges_.emplace_back(shape, std::move(charge)).second;
}

void Sequence::Start(int64_t kv_bytes, int64_t kv_bytes_full, double now) {
  H2O_CHECK(state_ == State::kQueued) << "sequence " << id_;
  state_ = State::kRunning;
  kv_bytes_ = kv_bytes;
  kv_bytes_full_ = kv_bytes_full;
  received_ = prefills_tokens_ ? num_tokens() : 0;
  taken_ = now;
  if (!started_) started_ = now;
}

void Sequence::AddText(StreamEvent* event) {
  if (decoder_ == nullptr) return;
  const bool last = event->finish != FinishReason::kNone;
  std::string piece = decoder_->Push(tokens_.back());
  if (last) piece += decoder_->Finish();
  if (num_tokens() <= spec_.min_tokens) {  // nothing ends it yet
    event->text = std::move(piece);
    return;
  }
  StopMatcher::Match match = stops_.Push(piece);
  event->text = std::move(match.text);
  if (match.stop != nullptr) {
    event->finish = FinishReason::kStop;
    event->stop_string = *match.stop;
    if (include_stop_) event->text += *match.stop;
  } else if (last) {
    event->text += stops_.Finish();
  }
}

std::vector<Logprobs> Sequence::TakeLogprobs(std::vector<LogprobRows> rows) {
  std::vector<Logprobs> of_answer;
  for (LogprobRows& r : rows) {
    if (r.first_position < static_cast<int32_t>(spec_.prompt.size())) {
      prompt_logprobs_ = std::move(r.rows);
    } else if (logprobs_) {
      std::move(r.rows.begin(), r.rows.end(), std::back_inserter(of_answer));
    }
  }
  return of_answer;
}

std::optional<StreamEvent> Sequence::Accept(const TokenResult& token,
                                            TokenReports reports, double now) {
  H2O_CHECK(state_ == State::kRunning) << "sequence " << id_;
  if (token.finish == FinishReason::kNonFinite) {
    return Fail(absl::InternalError(absl::StrCat(
                    "the model's logits at position ", next_logit_position(),
                    " are not finite (NaN or infinity): there is no token to "
                    "follow it")),
                now);
  }
  ++received_;
  std::vector<Logprobs> logprobs = TakeLogprobs(std::move(reports.logprobs));
  if (received_ <= num_tokens()) return std::nullopt;  // given, not generated
  StreamEvent event;
  event.choice = choice_;
  if (!first_token_) {
    first_token_ = now;
    event.seed = spec_.sampling.seed;
    if (report_prompt_) event.prompt = spec_.prompt;
    if (spec_.prompt_logprobs) {
      event.prompt_logprobs = std::move(prompt_logprobs_);
      // Nothing comes before the first token of a prompt.
      event.prompt_logprobs.insert(event.prompt_logprobs.begin(), Logprobs());
    }
  }
  last_token_ = now;
  tokens_.push_back(token.token);
  event.tokens = {token.token};
  event.trace = std::move(reports.trace);
  event.logits = std::move(reports.logits);
  event.logprobs = std::move(logprobs);
  event.finish = token.finish;
  if (absl::c_linear_search(spec_.stop_tokens, token.token) &&
      event.finish == FinishReason::kStop) {
    event.stop_token = token.token;
  }
  AddText(&event);
  event.done = event.finish != FinishReason::kNone;
  if (event.done) {
    state_ = State::kDone;
    event.usage = MakeUsage(now);
  }
  return event;
}

absl::Status Sequence::DeadlineError(double now) const {
  return absl::DeadlineExceededError(absl::StrCat(
      "the client's deadline has passed ", queued_seconds(now),
      " s after the request came; ",
      started_ ? absl::StrCat("it has ", num_tokens(), " tokens of its answer")
               : "it was in the queue all the time"));
}

StreamEvent Sequence::Fail(absl::Status status, double now) {
  H2O_CHECK(state_ != State::kDone) << "sequence " << id_;
  state_ = State::kDone;
  StreamEvent event;
  event.choice = choice_;
  event.done = true;
  event.status = std::move(status);
  event.usage = MakeUsage(now);
  return event;
}

Usage Sequence::MakeUsage(double now) const {
  Usage usage;
  usage.prompt_tokens = static_cast<int32_t>(spec_.prompt.size());
  usage.completion_tokens = num_tokens();
  usage.replays = replays_;
  usage.attention_mass_kept = mass_kept_;
  usage.kv_bytes = kv_bytes_;
  usage.kv_bytes_full = kv_bytes_full_;
  if (first_token_) {
    const int32_t stored = usage.prompt_tokens + num_tokens() - 1;
    int32_t least = stored;
    for (const KvSlots& slots : spec_.policy.slots) {
      usage.kv_slots_held =
          std::max(usage.kv_slots_held, std::min(stored, slots.Capacity()));
      least = std::min(least, slots.Capacity());
    }
    usage.tokens_evicted = stored - least;
  }
  usage.queue_seconds = started_.value_or(now) - submitted_;
  if (started_) usage.prefill_seconds = first_token_.value_or(now) - *started_;
  if (first_token_) usage.decode_seconds = now - *first_token_;
  return usage;
}

}  // namespace h2o
