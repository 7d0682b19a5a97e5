// A Sequence is one request's life: queued -> running -> done, with what it has
// been given, what it has produced, and the stream it produces it for.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/request.h"
#include "coordinator/admission.h"
#include "model/step.h"
#include "model/tokenizer.h"

namespace h2o {

// Finds stop strings in a stream of text.  Text that may turn out to begin one
// is held back until it is clear.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops)
      : stops_(std::move(stops)) {}

  struct Match {
    std::string text;  // may be shown now
    bool stopped = false;
  };
  // REQUIRES: no earlier call stopped.
  Match Push(std::string_view piece);
  // At the end of the text nothing can begin any more.
  std::string Finish() { return std::exchange(held_, {}); }

 private:
  const std::vector<std::string> stops_;  // none empty
  std::string held_;
};

class Sequence {
 public:
  enum class State { kQueued, kRunning, kDone };

  Sequence(SequenceSpec spec, std::vector<std::string> stops,
           const Tokenizer* tokenizer, EventCallback on_event, double now);

  uint64_t id() const { return spec_.id; }
  State state() const { return state_; }
  const SequenceSpec& spec() const { return spec_; }
  // The generated tokens that were streamed.
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t max_stored_tokens() const {
    return MaxStoredTokens(static_cast<int64_t>(spec_.prompt.size()),
                           spec_.max_tokens);
  }
  double queued_seconds(double now) const { return now - submitted_; }

  // queued -> running, with what its pages cost in bytes.
  void Start(PageCharge charge, int64_t kv_bytes, int64_t kv_bytes_full,
             double now);
  const PageCharge& charge() const { return charge_; }

  // What the next token's traces and last logits are marked with: prefill's
  // traces have no position, a decode step's have that of its input.
  int32_t next_traced_position() const {
    return tokens_.empty() ? -1 : next_logit_position();
  }
  int32_t next_logit_position() const {
    return static_cast<int32_t>(spec_.prompt.size()) + num_tokens() - 1;
  }

  // One generated token, its traces and logits.  Emits an event; running ->
  // done if it was the last, be it by a stop string.
  void Accept(const TokenResult& token, std::vector<HeadTrace> trace,
              std::vector<LogitRows> logits, double now);

  // any -> done with an error; no effect if done.
  void Fail(absl::Status status, double now);

 private:
  int32_t num_tokens() const { return static_cast<int32_t>(tokens_.size()); }
  Usage MakeUsage(double now) const;
  std::string TextOf(int32_t token, bool last, bool* stopped);
  void Emit(StreamEvent event);

  const SequenceSpec spec_;
  const EventCallback on_event_;
  State state_ = State::kQueued;
  PageCharge charge_;
  int64_t kv_bytes_ = 0, kv_bytes_full_ = 0;
  std::vector<int32_t> tokens_;                  // generated and streamed
  std::unique_ptr<IncrementalDecoder> decoder_;  // null: no tokenizer
  StopMatcher stops_;
  const double submitted_;
  std::optional<double> started_, first_token_;
};

}  // namespace h2o
