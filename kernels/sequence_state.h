// The state of an open sequence on the device: plain numbers in its memory, so
// that decode steps run without the host.
#pragma once

#include <cstdint>

#include "base/finish_reason.h"
#include "base/host_device.h"
#include "base/sampling.h"
#include "kernels/kv_head.h"

namespace h2o {

// One entry for each open sequence; the index of its entry is its seat.
struct SequenceState {
  KvHead* heads = nullptr;  // [layers][heads of this rank]
  // The sequence's tokens by position: the prompt's p are tokens[0..p-1],
  // generated token t is tokens[p + t].  The first num_forced of the generated
  // ones are given (teacher forcing, replay); Advance writes the others, so
  // tokens[0..position] are always known.
  int32_t* tokens = nullptr;
  int32_t num_forced = 0;
  int32_t token = 0;          // tokens[position]: what the next step processes
  int32_t position = 0;       // of the last token: p + num_generated - 1
  int32_t num_generated = 0;  // tokens so far
  int32_t max_tokens = 0;
  SamplingParams sampling;
  FinishReason finish = FinishReason::kNone;
  bool reports_scores = false;  // with every token, not only with the last
  int32_t top_logprobs = -1;    // SequenceSpec::top_logprobs
  int32_t min_tokens = 0;       // before so many, none that ends it is chosen
  int32_t num_biases = 0;
  const LogitBias* biases = nullptr;  // [num_biases], on the device
  // The tokens that end the sequence: the first num_stop_tokens of them.
  int32_t num_stop_tokens = 0;
  int32_t stop_tokens[kMaxStopTokens] = {};
};

// The token of a row that has none (Backend::ArgMax says when).
inline constexpr int32_t kNoToken = -1;

// The best logit of a row among the columns of one rank.
struct BestLogit {
  float logit = 0;
  int32_t token = 0;  // kNoToken: a column holds NaN or +Infinity
};

// The result of a step for one row.
struct RowResult {
  int32_t token = kNoToken;  // kNoToken: the row did not run or ends without
  FinishReason finish = FinishReason::kNone;
  float kept_scores = 0;  // SumScores' sum, where it was taken
};

// The rules that both twins run, a row at a time.

// The better of two ranks' best logits, `a` being of the lower rank, which owns
// the lower tokens.  If either is kNoToken, so is the result.
H2O_HOST_DEVICE inline BestLogit BetterOf(const BestLogit& a,
                                          const BestLogit& b) {
  if (a.token == kNoToken) return a;
  if (b.token == kNoToken) return b;
  return b.logit > a.logit ? b : a;
}

// Whether the row of `seat` has a sequence that goes on.
H2O_HOST_DEVICE inline bool Runs(const SequenceState* states, int32_t seat) {
  return seat >= 0 && states[seat].finish == FinishReason::kNone;
}

// Whether `token` ends the sequence.
H2O_HOST_DEVICE inline bool Stops(const SequenceState& state, int32_t token) {
  bool stops = false;
  for (int i = 0; i < state.num_stop_tokens; ++i) {
    stops |= token == state.stop_tokens[i];
  }
  return stops;
}

// Whether the row's scores are summed: it ran, and it ends or wants them
// always.
H2O_HOST_DEVICE inline bool WantsScores(const SequenceState* states,
                                        int32_t seat, const RowResult& result) {
  return result.token != kNoToken &&
         (result.finish != FinishReason::kNone || states[seat].reports_scores);
}

// Moves a running sequence on: appends `token`, or takes the given token if
// there is one.  Without a token the sequence ends where it stands, even if the
// next one is given.
H2O_HOST_DEVICE inline RowResult NextToken(int32_t token,
                                           SequenceState* state) {
  if (token == kNoToken) {
    state->finish = FinishReason::kNonFinite;
    return {kNoToken, state->finish};
  }
  int32_t* const next = state->tokens + state->position + 1;
  if (state->num_generated >= state->num_forced) *next = token;
  state->token = *next;
  ++state->num_generated;
  ++state->position;
  if (Stops(*state, state->token)) {
    state->finish = FinishReason::kStop;
  } else if (state->num_generated == state->max_tokens) {
    state->finish = FinishReason::kLength;
  }
  return {state->token, state->finish};
}

}  // namespace h2o
