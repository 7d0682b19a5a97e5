// Measures what KV policies lose, in the conditions of serving: a prompt goes
// through prefill, and the tokens behind it, which are given, through the cache
// of the policy.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "embedded/embedded.h"
#include "eval/documents.h"
#include "eval/recall.h"
#include "eval/scores.h"
#include "eval/settings.h"

namespace h2o {

struct EvalOptions {
  std::vector<EvalSetting> settings;
  TokenRows documents;  // all of one length, over prompt_tokens
  // Tokens that are not scored, and that are prefilled unless token_by_token.
  int prompt_tokens = 256;
  // Decode all but the first token, so that no prediction has seen more than
  // the policy kept.
  bool token_by_token = false;
  std::vector<RecallText> recall;  // may be empty
};

// Of one setting.
struct EvalResult {
  EvalSetting setting;
  int kv_bits = 0;         // of a stored number
  double bytes_share = 0;  // KV bytes over those of the full cache in 16 bits
  std::vector<DocumentScores> documents;
  // The mean over documents of Usage::attention_mass_kept.
  std::optional<double> attention_mass_kept;
  int64_t facts_right = 0, facts_asked = 0;
};

// One result for each setting.  `progress` (may be empty) is called with the
// fraction done.
// Errors: those of requests; INTERNAL naming the position of logits that are
// not finite.  REQUIRES: the tokens of all documents and texts are the model's.
absl::StatusOr<std::vector<EvalResult>> Evaluate(
    const EvalOptions& options, Embedded* embedded,
    const std::function<void(double)>& progress);

}  // namespace h2o
