// The words that a coordinator and its workers exchange: plain structs, the
// same whether they cross a function call, a thread or a network.
//
// A StepPlan goes to every rank of a group, in order; a rank refuses any other
// number than the next, because a skipped step would hang a collective.  Plans
// run one ahead: plan t + 1 may be sent before the result of t is back, so it
// may still name a sequence that finished in t; such a row does nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/finish_reason.h"
#include "base/kv_policy.h"
#include "base/logprobs.h"
#include "base/sampling.h"

namespace h2o {

// All that a rank must know of a request, once.
struct SequenceSpec {
  uint64_t id = 0;
  std::vector<int32_t> prompt;  // token ids, at least one
  int32_t max_tokens = 0;       // to generate, >= 1
  bool ignore_eos = false;
  SamplingParams sampling;
  KvPolicy policy;
  bool trace = false;  // report what every head keeps and evicts

  // Generated token t is forced[t], whatever the model would choose; the tokens
  // behind them are generated freely.  Fewer than max_tokens.  Teacher forcing
  // gives all but the last; a replay gives those that were streamed already.
  std::vector<int32_t> forced;
  // So many of the prompt's last tokens were generated before.  max_tokens and
  // the index of a draw count them.
  int32_t generated = 0;
  bool logits = false;  // report the logits of every position
  // Report the kept scores with every token, because any may turn out to be the
  // last (stop strings); else with the last alone.
  bool scores = false;

  std::vector<LogitBias> logit_bias;  // at most one of each token
  // They end the sequence, beside those of the model, which ignore_eos switches
  // off.  No token that ends it is chosen before min_tokens are generated.
  std::vector<int32_t> stop_tokens;
  int32_t min_tokens = 0;
  // Report the logprob of every generated token, and those of so many of the
  // likeliest; -1: of none.
  int32_t top_logprobs = -1;
  bool prompt_logprobs = false;  // the same of the prompt's tokens
  // Another sequence with the same prompt, policy and max_tokens, admitted in
  // the same step before this one: this one is not prefilled, it takes over the
  // other's KV cache when that is complete, and its first token comes in the
  // same step.  If the other is retired before, the fork of it with the lowest
  // id takes its place: it is prefilled from then on, and the others are its
  // forks.  0: none.
  uint64_t fork_of = 0;

  int64_t num_positions() const {  // the last token needs none
    return static_cast<int64_t>(prompt.size()) - generated + max_tokens - 1;
  }

  friend bool operator==(const SequenceSpec&, const SequenceSpec&) = default;
};

// Whether `fork` may name `source` in fork_of.
inline bool IsForkOf(const SequenceSpec& fork, const SequenceSpec& source) {
  return source.fork_of == 0 && fork.fork_of == source.id &&
         fork.prompt == source.prompt && fork.generated == source.generated &&
         fork.max_tokens == source.max_tokens && fork.policy == source.policy;
}

// Runs layers [layer_begin, layer_end) of the prompts of `sequence_ids`, packed
// in one pass.  The slice with layer_end == num_layers also yields their first
// tokens.
struct PrefillSlice {
  std::vector<uint64_t> sequence_ids;  // at least one
  int32_t layer_begin = 0;
  int32_t layer_end = 0;

  friend bool operator==(const PrefillSlice&, const PrefillSlice&) = default;
};

// In this order: retire, admit, prefill, decode.
struct StepPlan {
  uint64_t step = 0;  // 1, 2, 3, ...
  std::vector<uint64_t> retire;
  std::vector<SequenceSpec> admit;
  std::vector<PrefillSlice> prefill;
  std::vector<uint64_t> decode;  // one token for each, in this order

  friend bool operator==(const StepPlan&, const StepPlan&) = default;
};

struct TokenResult {
  uint64_t sequence_id = 0;
  int32_t token = 0;  // 0 where `finish` is kNonFinite: there is none
  FinishReason finish = FinishReason::kNone;

  friend bool operator==(const TokenResult&, const TokenResult&) = default;
};

// What one head kept after a prompt (`pos` < 0), or gave up in the decode step
// that processed position `pos`.
struct HeadTrace {
  uint64_t sequence_id = 0;
  int32_t layer = 0;
  int32_t head = 0;  // of the whole model
  int32_t pos = -1;
  int32_t evicted = -1;       // decode; -1: nothing was
  std::vector<int32_t> kept;  // prompt; ascending

  friend bool operator==(const HeadTrace&, const HeadTrace&) = default;
};

struct LogitRows {
  uint64_t sequence_id = 0;
  int32_t first_position = 0;
  std::vector<float> rows;  // [n, vocab_size]

  friend bool operator==(const LogitRows&, const LogitRows&) = default;
};

// Logprobs of tokens at positions of a sequence, in a row.
struct LogprobRows {
  uint64_t sequence_id = 0;
  int32_t first_position = 0;  // of the first token they are for
  std::vector<Logprobs> rows;

  friend bool operator==(const LogprobRows&, const LogprobRows&) = default;
};

// The sum of the scores of all that a rank's heads keep of a sequence, when its
// first `queries` tokens have attended (kv/kept_mass.h).
struct KeptScores {
  uint64_t sequence_id = 0;
  int32_t queries = 0;
  double sum = 0;

  friend bool operator==(const KeptScores&, const KeptScores&) = default;
};

struct StepResult {
  uint64_t step = 0;
  // Over what all ranks share after this step: its number, the open sequences'
  // ids, their lengths and their last tokens.
  uint64_t checksum = 0;
  std::vector<TokenResult> tokens;  // prefill's first tokens, then decode's
  std::vector<HeadTrace> trace;     // of this rank's heads
  std::vector<LogitRows> logits;
  std::vector<LogprobRows> logprobs;  // rank 0's alone; all ranks have them
  std::vector<KeptScores> scores;     // of this rank's heads
  double prefill_seconds = 0;
  double decode_seconds = 0;
  // The slowest single layer of this step's prefill slices.
  double slowest_layer_seconds = 0;
  // How long the device was idle between the step before and this one; 0 if
  // this step was launched only after the step before had ended.
  double idle_seconds = 0;
  // Of this step's seconds, how long the rank was in sums and gathers of its
  // group, mostly waiting for other ranks.  CPUs only: the sums of GPUs are
  // enqueued, and the host does not see them; then it is 0.
  double sum_wait_seconds = 0;

  friend bool operator==(const StepResult&, const StepResult&) = default;
};

}  // namespace h2o
