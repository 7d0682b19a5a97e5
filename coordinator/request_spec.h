// From a Request to the SequenceSpec that workers run: all checks that need the
// model (vocabulary, positions, the policy resolved for the prompt).  Those
// that need none are CheckRequest's; those that need the groups are
// Admission's.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/request.h"
#include "base/kv_policy.h"
#include "model/model_config.h"
#include "model/step.h"
#include "model/tokenizer.h"

namespace h2o {

// Tokens of an answer whose request names no number, if positions are left.
inline constexpr int32_t kDefaultMaxTokens = 128;

// The model and the operator's limits that requests are checked against.
struct RequestRules {
  ModelConfig config;
  const Tokenizer* tokenizer = nullptr;  // null: no texts, no stop strings
  KvPolicyRequest default_kv_policy;
  int32_t kv_budget_cap = 0;  // slots a head; 0: no cap
  int max_stop = 16;          // stop strings
};

// The most bytes that a request which the model can run has in
// inference.proto.
int64_t MostRequestBytes(const ModelConfig& config, const Tokenizer* tokenizer);

// Checks what can be told before the text is encoded.  A prompt that is too
// long for the model costs no more than its length tells.
// Errors: INVALID_ARGUMENT naming the value and what would be right.
absl::Status CheckUnencoded(const Request& request, const RequestRules& rules);

// Turns the prompt of `request` into tokens; takes time in proportion to the
// text.  No effect on a prompt of tokens.  REQUIRES: CheckUnencoded is OK.
absl::Status EncodePrompt(const Tokenizer* tokenizer, Request* request);

// The spec of a request whose prompt is tokens, with id 0.
// REQUIRES: CheckUnencoded is OK.  Errors: INVALID_ARGUMENT, as above.
absl::StatusOr<SequenceSpec> SpecOf(Request request, const RequestRules& rules);

}  // namespace h2o
