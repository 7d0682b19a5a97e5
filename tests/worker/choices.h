// Whether tokens and logprobs follow from the raw logits that a rank reports
// with them: for tests of both twins.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "kernels/backend.h"
#include "kernels/logit_changes.h"
#include "model/step.h"

namespace h2o {

// What was reported of a sequence with `logits`.
struct Reported {
  SequenceSpec spec;
  std::vector<int32_t> tokens;       // generated
  std::map<int, Logprobs> logprobs;  // by position
  std::vector<float> logits;         // of all positions, [.., vocabulary]

  void Add(const StepResult& result) {
    for (const TokenResult& t : result.tokens) {
      if (t.sequence_id == spec.id) tokens.push_back(t.token);
    }
    for (const LogitRows& l : result.logits) {
      if (l.sequence_id != spec.id) continue;
      logits.insert(logits.end(), l.rows.begin(), l.rows.end());
    }
    for (const LogprobRows& rows : result.logprobs) {
      if (rows.sequence_id != spec.id) continue;
      for (size_t r = 0; r < rows.rows.size(); ++r) {
        const int position = rows.first_position + static_cast<int>(r);
        EXPECT_TRUE(logprobs.emplace(position, rows.rows[r]).second);
      }
    }
  }
};

// Of one position with the logits row[vocabulary].
inline void ExpectLogprobs(const Logprobs& got, const float* row,
                           int vocabulary, int32_t token, int top) {
  double total = 0;
  for (int i = 0; i < vocabulary; ++i) total += std::exp(double{row[i]});
  const auto logprob_of = [&](int32_t t) { return row[t] - std::log(total); };
  EXPECT_EQ(got.chosen.token, token);
  EXPECT_NEAR(got.chosen.logprob, logprob_of(token), 1e-4);
  ASSERT_EQ(static_cast<int>(got.top.size()), top);
  for (int i = 0; i < top; ++i) {
    const int32_t likely = got.top[i].token;
    EXPECT_NEAR(got.top[i].logprob, logprob_of(likely), 1e-4);
    const auto ahead = [&](int t) {
      return row[t] > row[likely] || (row[t] == row[likely] && t < likely);
    };
    int place = 0;
    for (int t = 0; t < vocabulary; ++t) place += ahead(t);
    EXPECT_EQ(place, i);
  }
}

// The row before its token is chosen: `known` are the tokens so far, `stops`
// those that end the sequence.
inline std::vector<float> ChangedRow(std::vector<float> row,
                                     const SequenceSpec& spec,
                                     const std::vector<int32_t>& known,
                                     const std::vector<int32_t>& stops) {
  const auto answer = known.begin() + spec.prompt.size() - spec.generated;
  for (const LogitBias& b : spec.logit_bias) {
    row[b.token] = ChangedLogit(double{row[b.token]} + b.bias);
  }
  std::map<int32_t, int> counts;
  for (int32_t token : known) counts[token] = 0;
  for (auto it = answer; it != known.end(); ++it) ++counts[*it];
  if (Penalizes(spec.sampling)) {
    for (const auto& [token, count] : counts) {
      row[token] =
          PenalizedLogit(row[token], static_cast<float>(count), spec.sampling);
    }
  }
  if (known.end() - answer < spec.min_tokens) {
    for (int32_t stop : stops) {
      row[stop] = -std::numeric_limits<float>::infinity();
    }
  }
  return row;
}

// Checks all logprobs and all tokens that were not forced.  Returns how many
// draws differ from SampleToken's; GPUs draw with integers, so one may at a
// near tie.
inline int CheckChoices(const Reported& r, int vocabulary,
                        const std::vector<int32_t>& model_stops) {
  const SequenceSpec& spec = r.spec;
  std::vector<int32_t> stops = spec.stop_tokens, known = spec.prompt;
  if (!spec.ignore_eos) {
    stops.insert(stops.end(), model_stops.begin(), model_stops.end());
  }
  const auto row_at = [&](size_t position) {
    return r.logits.data() + position * vocabulary;
  };
  EXPECT_EQ(r.logits.size(), (known.size() + r.tokens.size() - 1) * vocabulary);
  std::vector<double> scratch(2 * vocabulary);
  int differ = 0;
  for (size_t t = 0; t < r.tokens.size(); ++t) {
    const float* raw = row_at(known.size() - 1);
    const std::vector<float> row =
        ChangedRow({raw, raw + vocabulary}, spec, known, stops);
    const int32_t want = SampleToken(row, spec.sampling, spec.generated + t,
                                     absl::MakeSpan(scratch));
    if (t < spec.forced.size()) {
      EXPECT_EQ(r.tokens[t], spec.forced[t]);
    } else if (spec.sampling.temperature == 0) {
      EXPECT_EQ(r.tokens[t], want) << "token " << t;
    } else {
      differ += r.tokens[t] != want;
    }
    known.push_back(r.tokens[t]);
  }
  for (const auto& [position, logprobs] : r.logprobs) {
    ExpectLogprobs(logprobs, row_at(position - 1), vocabulary, known[position],
                   spec.top_logprobs);
  }
  return differ;
}

}  // namespace h2o
