// A Sequence is one request's life: encoding -> queued -> running -> done, with
// what it was given, what it has produced and the stream of its events.
//
// If its group is lost, a running Sequence goes back into the queue with the
// tokens that it has streamed.  The next group produces these again (they are
// given to it, so they cannot differ), and the stream goes on behind them.
//
// The choices of a request (Request::n) are sequences that wait together: one
// of them, the lead, stands for all in the queue, and has the others with it.
// They start together and are sequences like any other from then on.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/engine_options.h"
#include "api/request.h"
#include "coordinator/admission.h"
#include "coordinator/event_stream.h"
#include "kv/kv_geometry.h"
#include "model/step.h"
#include "model/tokenizer.h"

namespace h2o {

struct TenantAccount;

// Where a request stands among the others.
struct Standing {
  TenantAccount* tenant = nullptr;
  int32_t priority = 0;  // with the tenant's; higher first
  // When it ends with DEADLINE_EXCEEDED, by the Engine's clock.
  double deadline = std::numeric_limits<double>::infinity();
  int64_t expected_tokens = 0;  // most_tokens() of a text that is not encoded
};

// How a client wants its answer.
struct AnswerForm {
  std::vector<std::string> stops;  // it ends before one of these
  bool include_stop = false;       // or behind it
  bool logprobs = false;           // of the tokens
  bool report_prompt = false;      // the tokens of the prompt
};

// What workers report beside a token.
struct TokenReports {
  std::vector<HeadTrace> trace;
  std::vector<LogitRows> logits;
  std::vector<LogprobRows> logprobs;
};

// Finds stop strings in a stream of text.  Text that may begin a stop string is
// held back until more text decides.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops)
      : stops_(std::move(stops)) {}

  struct Match {
    std::string text;                   // can be shown now
    const std::string* stop = nullptr;  // that ends the stream behind the text
  };
  bool any() const { return !stops_.empty(); }
  // REQUIRES: no earlier call stopped.
  Match Push(std::string_view piece);
  // The text that is held back, when no more will come.
  std::string Finish() { return std::exchange(held_, {}); }

 private:
  const std::vector<std::string> stops_;  // none empty
  std::string held_;
};

class Sequence {
 public:
  // kEncoding: the prompt is a text that is not yet tokens.
  enum class State { kEncoding, kQueued, kRunning, kDone };

  // Begins as kEncoding.  `tokenizer` may be null: then events carry no text.
  // `was_text` tells whether the request's prompt is a text.
  Sequence(uint64_t id, bool was_text, AnswerForm form,
           const Tokenizer* tokenizer, std::shared_ptr<EventStream> events,
           double now, Standing standing = {}, int32_t choice = 0);

  uint64_t id() const { return id_; }
  // That of choice 0; the other choices have the ids behind it.
  uint64_t request_id() const { return id_ - choice_; }

  // Another choice of the same request waits with this one from now on, and
  // goes where this one goes.  REQUIRES: both are kEncoding.
  void Join(std::unique_ptr<Sequence> other);
  // This one and those that joined it.
  int64_t choices() const { return 1 + static_cast<int64_t>(others_.size()); }
  bool has_choice(uint64_t id) const;
  // Those that joined it, which are by themselves now.
  std::vector<std::unique_ptr<Sequence>> TakeOthers();
  // Takes out choice `id`.  Of the rest, `*lead` is the lead; null: none.
  // REQUIRES: has_choice(id) of *lead.
  static std::unique_ptr<Sequence> TakeChoice(uint64_t id,
                                              std::unique_ptr<Sequence>* lead);

  State state() const { return state_; }
  bool was_text() const { return was_text_; }
  const Standing& standing() const { return standing_; }
  double submitted() const { return submitted_; }
  double queued_seconds(double now) const { return now - submitted_; }
  // Since the group that runs it took it.
  double running_seconds(double now) const { return now - taken_; }
  const std::shared_ptr<EventStream>& events() const { return events_; }

  // encoding -> queued, with all its choices: each draws with a seed of its
  // own.  `generated` are tokens that the client has already: the stream goes
  // on behind them.
  // Errors: INVALID_ARGUMENT if a stop string ends within them.
  absl::Status SetSpec(SequenceSpec spec,
                       const std::vector<int32_t>& generated = {});
  // The rest up to Fail needs a spec.
  const SequenceSpec& spec() const { return spec_; }
  // What a group is told to run.
  SequenceSpec SpecToRun() const;
  // The generated tokens that the client has.
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t max_stored_tokens() const {
    return MaxStoredTokens(static_cast<int64_t>(spec_.prompt.size()),
                           spec_.max_tokens);
  }

  // The most tokens that it can take with all its choices, of prompts and
  // answers.
  int64_t most_tokens() const {
    const int64_t each =
        state_ == State::kEncoding
            ? standing_.expected_tokens
            : static_cast<int64_t>(spec_.prompt.size()) + spec_.max_tokens;
    return choices() * each;
  }
  // Those of its prompt: it was prefilled once for all choices, and one of them
  // counts it.
  int64_t prompt_tokens() const {
    return counts_prompt_ ? static_cast<int64_t>(spec_.prompt.size()) : 0;
  }
  bool counts_prompt() const { return counts_prompt_; }
  void CountPrompt() { counts_prompt_ = true; }
  // Those that it has taken; not those that the client had before.
  int64_t used_tokens() const {
    return first_token_ ? prompt_tokens() + num_tokens() - given_ : 0;
  }
  bool has_begun() const { return first_token_.has_value(); }
  // What its tenant's allowance was charged (TenantAccounts::Take) for it, and
  // how that becomes most_tokens(), each choice by itself.  Returns the
  // difference.
  int64_t allowance() const { return allowance_; }
  int64_t SetAllowance();

  // What the sequence costs with all its choices in groups of one shape, which
  // `shape` numbers; computed once for each.
  const SlabCharge& ChargeIn(uint64_t shape, const Admission& admission);

  // queued -> running, with the bytes of its pages, and of those that the
  // policy `full` would take.
  void Start(int64_t kv_bytes, int64_t kv_bytes_full, double now);

  // running -> queued: its group was lost (REQUIRES: CanReplay()), or it moves
  // away from a group that drains.
  enum class Move { kLost, kDrained };
  void Requeue(ReplayMode mode, Move move = Move::kLost);
  // Whether it may run again.  A request that lost two groups may have caused
  // that.
  bool CanReplay() const { return losses_ == 0; }

  // Whether a group has run it before.
  bool has_run() const { return started_.has_value(); }

  // While no group could ever run the queued sequence: since when, and why the
  // last such group was lost.
  struct Stranded {
    double since = 0;
    absl::Status reason;
  };
  const std::optional<Stranded>& stranded() const { return stranded_; }
  void SetStranded(std::optional<Stranded> stranded) {
    stranded_ = std::move(stranded);
  }

  // The positions of the traces and of the last logits that belong to the next
  // token.  Traces of a prefill have position -1, those of a decode step the
  // position of its input.
  int32_t next_traced_position() const {
    return received_ == 0 ? -1 : next_logit_position();
  }
  int32_t next_logit_position() const {
    return static_cast<int32_t>(spec_.prompt.size()) + received_ - 1;
  }

  // Takes one generated token with what was reported of it and returns the
  // event for the client; none for a token that the client has.  running ->
  // done if it was the last token, also by a stop string.
  std::optional<StreamEvent> Accept(const TokenResult& token,
                                    TokenReports reports, double now);
  // When the last token came; nothing before the first.
  const std::optional<double>& last_token() const { return last_token_; }
  // Before the token is accepted: usage.attention_mass_kept.
  void SetMassKept(std::optional<double> share) { mass_kept_ = share; }

  // DEADLINE_EXCEEDED, with how far the request came.
  absl::Status DeadlineError(double now) const;

  // Any other state -> done; returns the last event, which carries the error.
  StreamEvent Fail(absl::Status status, double now);

 private:
  int32_t num_tokens() const { return static_cast<int32_t>(tokens_.size()); }
  Usage MakeUsage(double now) const;
  // Adds the text of the newest of tokens_ to `event`, and ends it at a stop
  // string.
  void AddText(StreamEvent* event);
  // Keeps those of the prompt for the first event; returns the token's.
  std::vector<Logprobs> TakeLogprobs(std::vector<LogprobRows> rows);

  const uint64_t id_;
  const int32_t choice_;
  const bool was_text_;
  const std::shared_ptr<EventStream> events_;
  State state_ = State::kEncoding;
  SequenceSpec spec_;                                     // from kQueued on
  std::vector<std::pair<uint64_t, SlabCharge>> charges_;  // by shape
  std::vector<std::unique_ptr<Sequence>> others_;  // choices, while they wait
  bool counts_prompt_ = true;
  int64_t kv_bytes_ = 0, kv_bytes_full_ = 0;
  std::vector<int32_t> tokens_;  // that the client has
  int32_t given_ = 0;            // of these, that it had before this request
  std::vector<Logprobs> prompt_logprobs_;  // until the first event
  int32_t received_ = 0;  // tokens of the answer that the group has produced
  int32_t replays_ = 0;
  std::optional<double> mass_kept_;
  int32_t losses_ = 0;            // of them, those after which a group was lost
  bool prefills_tokens_ = false;  // as ReplayMode::kFast
  std::optional<Stranded> stranded_;
  std::unique_ptr<IncrementalDecoder> decoder_;  // null: no tokenizer
  const bool include_stop_, logprobs_, report_prompt_;
  StopMatcher stops_;
  const Standing standing_;
  int64_t allowance_ = 0;
  const double submitted_;
  double taken_ = 0;
  std::optional<double> started_, first_token_, last_token_;
};

}  // namespace h2o
