// Given tokens through the cache of an Embedded, and the logits that the model
// gives at each of them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "api/request.h"

namespace h2o {

// The first `prefill` tokens are the prompt, the rest is decoded through the
// cache as tokens that are given.  0: all of them are the prompt.
// Errors: INVALID_ARGUMENT for no tokens, or fewer than `prefill`.
absl::StatusOr<Request> TeacherForced(std::vector<int32_t> tokens, int prefill,
                                      std::optional<KvPolicyRequest> policy);

// Calls fn(position, logits) for each position whose logits `event` brings.
void ForEachLogitRow(
    const StreamEvent& event, int64_t vocabulary,
    absl::FunctionRef<void(int64_t, absl::Span<const float>)> fn);

// Whether no logit is NaN or +Infinity, as Backend::ArgMax has it.
bool IsUsable(absl::Span<const float> logits);

// log(sum of exp(logits)), in float64.  REQUIRES: IsUsable(logits).
double LogSumExp(absl::Span<const float> logits);

}  // namespace h2o
