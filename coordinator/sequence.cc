// Turns tokens into events: text, stop strings, usage.
#include "coordinator/sequence.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace h2o {

StopMatcher::Match StopMatcher::Push(std::string_view piece) {
  held_.append(piece);
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    first = std::min(first, held_.find(stop));
  }
  if (first != std::string::npos) {
    return {held_.substr(0, first), true};
  }
  // Keep the longest end that begins a stop string.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    size_t n = std::min(stop.size() - 1, held_.size());
    for (; n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) break;
    }
    keep = std::max(keep, n);
  }
  Match match{held_.substr(0, held_.size() - keep), false};
  held_.erase(0, held_.size() - keep);
  return match;
}

Sequence::Sequence(uint64_t id, bool was_text, std::vector<std::string> stops,
                   const Tokenizer* tokenizer,
                   std::shared_ptr<EventStream> events, double now,
                   Standing standing)
    : id_(id),
      was_text_(was_text),
      events_(std::move(events)),
      decoder_(tokenizer ? std::make_unique<IncrementalDecoder>(tokenizer)
                         : nullptr),
      stops_(std::move(stops)),
      standing_(standing),
      submitted_(now) {}

absl::Status Sequence::SetSpec(SequenceSpec spec,
                               std::vector<int32_t> generated) {
  H2O_CHECK(state_ == State::kEncoding) << "sequence " << id_;
  state_ = State::kQueued;
  spec_ = std::move(spec);
  spec_.id = id_;
  spec_.scores = stops_.any();
  tokens_ = std::move(generated);
  given_ = num_tokens();
  // Their text is known to the client, but it may begin a character or a stop
  // string that the next token ends.
  for (int32_t token : tokens_) {
    bool stopped = false;
    TextOf(token, /*last=*/false, &stopped);
    if (stopped) {
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
  return charges_
      .emplace_back(shape,
                    admission.ChargeOf(spec_.policy, max_stored_tokens()))
      .second;
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

std::string Sequence::TextOf(int32_t token, bool last, bool* stopped) {
  if (decoder_ == nullptr) return {};
  std::string piece = decoder_->Push(token);
  if (last) piece += decoder_->Finish();
  StopMatcher::Match match = stops_.Push(piece);
  *stopped = match.stopped;
  if (last && !match.stopped) match.text += stops_.Finish();
  return std::move(match.text);
}

std::optional<StreamEvent> Sequence::Accept(const TokenResult& token,
                                            std::vector<HeadTrace> trace,
                                            std::vector<LogitRows> logits,
                                            double now) {
  H2O_CHECK(state_ == State::kRunning) << "sequence " << id_;
  if (token.finish == FinishReason::kNonFinite) {
    return Fail(absl::InternalError(absl::StrCat(
                    "the model's logits at position ", next_logit_position(),
                    " are not finite (NaN or infinity): there is no token to "
                    "follow it")),
                now);
  }
  ++received_;
  if (received_ <= num_tokens()) return std::nullopt;  // given, not generated
  StreamEvent event;
  if (!first_token_) {
    first_token_ = now;
    event.seed = spec_.sampling.seed;
  }
  last_token_ = now;
  tokens_.push_back(token.token);
  event.tokens = {token.token};
  event.trace = std::move(trace);
  event.logits = std::move(logits);
  event.finish = token.finish;
  bool stopped = false;
  event.text =
      TextOf(token.token, token.finish != FinishReason::kNone, &stopped);
  if (stopped) event.finish = FinishReason::kStop;
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
