// What is compared: KV policies with budgets.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/kv_policy.h"

namespace h2o {

struct EvalSetting {
  KvPolicyName policy = KvPolicyName::kFull;
  std::string budget;  // "205" or "20%"; empty of `full`

  friend bool operator==(const EvalSetting&, const EvalSetting&) = default;
};

// Each policy of "full,h2o" with each budget of "10%,205"; `full` once.
// Errors: INVALID_ARGUMENT naming what is no policy or no budget.
absl::StatusOr<std::vector<EvalSetting>> ParseSettings(
    const std::string& policies, const std::string& budgets);

// The policy for a sequence of `tokens` tokens: a share is one of all of them,
// so that it is a share of the full cache.
// Errors: those of ResolveKvPolicy.
absl::StatusOr<KvPolicyRequest> PolicyOf(const EvalSetting& setting,
                                         int tokens);

}  // namespace h2o
