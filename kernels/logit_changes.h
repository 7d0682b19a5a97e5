// What the options of a request change of the logits before a token is chosen:
// the rules that both twins run, a row at a time.
//
// The order: bias, penalties, then the stop tokens that may not come yet.  The
// changes are made in place and taken back behind the choice, so that reports
// see the raw logits and nobody needs a second copy of the row.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "base/host_device.h"
#include "base/logprobs.h"
#include "base/sampling.h"
#include "kernels/sequence_state.h"

namespace h2o {

// Whether an option changes the logits of tokens that are there already.
H2O_HOST_DEVICE inline bool Penalizes(const SamplingParams& s) {
  return (s.repetition_penalty != 0 && s.repetition_penalty != 1) ||
         s.frequency_penalty != 0 || s.presence_penalty != 0;
}

// Whether the next token may not be one that ends the sequence.
H2O_HOST_DEVICE inline bool BansStops(const SequenceState& state) {
  return state.num_generated < state.min_tokens;
}

// Whether the row of `seat` has logits that are to be changed.  `token` is
// PickBest's.
H2O_HOST_DEVICE inline bool ChangesLogits(const SequenceState* states,
                                          int32_t seat, int32_t token) {
  if (!Runs(states, seat) || token == kNoToken) return false;
  const SequenceState& state = states[seat];
  return state.num_biases > 0 || Penalizes(state.sampling) || BansStops(state);
}

// Whether Sample chooses the token of the row, not PickBest.
H2O_HOST_DEVICE inline bool Chooses(const SequenceState* states, int32_t seat,
                                    int32_t token) {
  if (!Runs(states, seat) || token == kNoToken) return false;
  return states[seat].sampling.temperature > 0 ||
         ChangesLogits(states, seat, token);
}

// A changed logit: +Infinity would be no logit (Backend::ArgMax).
H2O_HOST_DEVICE inline float ChangedLogit(double logit) {
  if (logit > FLT_MAX) return FLT_MAX;
  return logit < -FLT_MAX ? -INFINITY : static_cast<float>(logit);
}

// The logit of a token that the prompt or the answer holds, the answer `count`
// times: SamplingParams has the sources.  Products of two float32 are exact in
// float64, so the twins agree to the bit.
H2O_HOST_DEVICE inline float PenalizedLogit(float logit, float count,
                                            const SamplingParams& s) {
  double x = logit;
  if (s.repetition_penalty != 0) {
    x = x > 0 ? x / s.repetition_penalty : x * s.repetition_penalty;
  }
  x -= static_cast<double>(count) * s.frequency_penalty;
  if (count > 0) x -= s.presence_penalty;
  return ChangedLogit(x);
}

// The numbers that a row needs to take its changes back.
constexpr int64_t UndoFloats(int64_t max_positions) {
  return kMaxLogitBiases + kMaxStopTokens + 2 * (max_positions + 1);
}
struct LogitUndo {
  float* of_biases;  // [num_biases]: the raw logits
  float* of_stops;   // [num_stop_tokens]: those that are not -Infinity yet
  // [known tokens]: a token's logit before penalties, and after them.
  float* before;
  float* after;

  H2O_HOST_DEVICE LogitUndo(float* scratch, int32_t known_tokens)
      : of_biases(scratch),
        of_stops(of_biases + kMaxLogitBiases),
        before(of_stops + kMaxStopTokens),
        after(before + known_tokens) {}
};

// Tokens that are known when the next one is chosen, and the first of them that
// belongs to the answer.
H2O_HOST_DEVICE inline int32_t KnownTokens(const SequenceState& state) {
  return state.position + 1;
}
H2O_HOST_DEVICE inline int32_t FirstOfAnswer(const SequenceState& state) {
  return KnownTokens(state) - state.num_generated;
}

// The logprobs of one position.  NaN where a logit is NaN or +Infinity, or all
// are -Infinity.
struct LogprobRow {
  TokenLogprob chosen;  // kNoToken: the row has none
  int32_t num_top = 0;
  TokenLogprob top[kMostTopLogprobs];
};

// Whether the row reports logprobs.  `result` is Advance's.
H2O_HOST_DEVICE inline bool ReportsLogprobs(const SequenceState* states,
                                            int32_t seat,
                                            const RowResult& result) {
  return result.token != kNoToken && states[seat].top_logprobs >= 0;
}

}  // namespace h2o
