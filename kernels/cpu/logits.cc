// What sampling options change of logits, and logprobs: the CPU twin of
// cuda/logits.cu.
#include "kernels/cpu/logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/types/span.h"

namespace h2o::cpu {
namespace {

// Every token that is there changes once, however often it is there: first all
// raw logits are read, then all changed ones written.  In between, the row
// itself counts how often the answer holds each token.
void Penalize(const SequenceState& state, const LogitUndo& undo, float* row) {
  const int32_t known = KnownTokens(state);
  const int32_t* tokens = state.tokens;
  for (int32_t i = 0; i < known; ++i) undo.before[i] = row[tokens[i]];
  for (int32_t i = 0; i < known; ++i) row[tokens[i]] = 0;
  for (int32_t i = FirstOfAnswer(state); i < known; ++i) row[tokens[i]] += 1;
  for (int32_t i = 0; i < known; ++i) {
    undo.after[i] =
        PenalizedLogit(undo.before[i], row[tokens[i]], state.sampling);
  }
  for (int32_t i = 0; i < known; ++i) row[tokens[i]] = undo.after[i];
}

void ChangeRow(const SequenceState& state, const LogitUndo& undo, float* row) {
  for (int32_t i = 0; i < state.num_biases; ++i) {
    float& logit = row[state.biases[i].token];
    undo.of_biases[i] = logit;
    logit = ChangedLogit(double{logit} + state.biases[i].bias);
  }
  if (Penalizes(state.sampling)) Penalize(state, undo, row);
  if (!BansStops(state)) return;
  const absl::Span<const int32_t> stops(state.stop_tokens,
                                        state.num_stop_tokens);
  for (size_t i = 0; i < stops.size(); ++i) undo.of_stops[i] = row[stops[i]];
  for (int32_t stop : stops) {
    row[stop] = -std::numeric_limits<float>::infinity();
  }
}

// The last change first.
void RestoreRow(const SequenceState& state, const LogitUndo& undo, float* row) {
  if (BansStops(state)) {
    for (int32_t i = 0; i < state.num_stop_tokens; ++i) {
      row[state.stop_tokens[i]] = undo.of_stops[i];
    }
  }
  if (Penalizes(state.sampling)) {
    for (int32_t i = 0; i < KnownTokens(state); ++i) {
      row[state.tokens[i]] = undo.before[i];
    }
  }
  for (int32_t i = 0; i < state.num_biases; ++i) {
    row[state.biases[i].token] = undo.of_biases[i];
  }
}

// Puts `logit` where it belongs among the greatest so far, of which there are
// `most`.  Tokens come in order, so of equal logits the lower token stays
// ahead.
void AddToTop(TokenLogprob logit, int32_t most, LogprobRow* out) {
  if (out->num_top == most && !(logit.logprob > out->top[most - 1].logprob)) {
    return;
  }
  if (out->num_top < most) ++out->num_top;
  TokenLogprob* place = &out->top[out->num_top - 1];
  for (; place > out->top && logit.logprob > place[-1].logprob; --place) {
    *place = place[-1];
  }
  *place = logit;
}

LogprobRow LogprobsOf(absl::Span<const float> row, int32_t token, int32_t top) {
  const float greatest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (float x : row) sum += std::exp(double{x} - greatest);
  const double shift = greatest + std::log(sum);
  LogprobRow out;
  out.chosen = {token, row[token]};
  for (int32_t i = 0; top > 0 && i < static_cast<int32_t>(row.size()); ++i) {
    AddToTop({i, row[i]}, top, &out);
  }
  const auto to_logprob = [shift](TokenLogprob* logit) {
    logit->logprob = static_cast<float>(logit->logprob - shift);
  };
  to_logprob(&out.chosen);
  std::for_each_n(out.top, out.num_top,
                  [&](TokenLogprob& t) { to_logprob(&t); });
  return out;
}

absl::Span<const float> RowOf(Matrix logits, int64_t r) {
  return {logits.Row(r), static_cast<size_t>(logits.columns)};
}

// Calls change(state, undo of the row, row) for each row whose logits change.
template <typename Change>
void ForChangedRows(Matrix logits, const SequenceState* states,
                    const int32_t* seats, const int32_t* tokens, Matrix undo,
                    Team* team, Change change) {
  team->ParallelFor(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      if (!ChangesLogits(states, seats[r], tokens[r])) continue;
      const SequenceState& state = states[seats[r]];
      change(state, LogitUndo(undo.Row(r), KnownTokens(state)), logits.Row(r));
    }
  });
}

}  // namespace

void ChangeLogits(Matrix logits, const SequenceState* states,
                  const int32_t* seats, const int32_t* tokens, Matrix undo,
                  Team* team) {
  ForChangedRows(logits, states, seats, tokens, undo, team, ChangeRow);
}

void RestoreLogits(Matrix logits, const SequenceState* states,
                   const int32_t* seats, const int32_t* tokens, Matrix undo,
                   Team* team) {
  ForChangedRows(logits, states, seats, tokens, undo, team, RestoreRow);
}

void Logprobs(Matrix logits, const SequenceState* states, const int32_t* seats,
              const RowResult* results, LogprobRow* out, Team* team) {
  team->ParallelFor(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      if (ReportsLogprobs(states, seats[r], results[r])) {
        out[r] = LogprobsOf(RowOf(logits, r), results[r].token,
                            states[seats[r]].top_logprobs);
      } else {
        out[r].chosen.token = kNoToken;
      }
    }
  });
}

void PromptLogprobs(Matrix logits, const int32_t* tokens, int top,
                    LogprobRow* out, Team* team) {
  team->ParallelFor(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      out[r] = LogprobsOf(RowOf(logits, r), tokens[r], top);
    }
  });
}

}  // namespace h2o::cpu
