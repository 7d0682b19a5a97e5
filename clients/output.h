// How `generate` and `call` tell people about an answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "api/result.h"
#include "base/kv_policy.h"

namespace h2o {

// What a policy comes to for a prompt: "h2o, 32 slots: 20 % of 6 tokens,
// at least one page".  REQUIRES: ResolveKvPolicy takes both.
std::string PolicyText(const KvPolicyRequest& policy, int32_t prompt_tokens);

// Tokens, what `policy` came to if there is one, and the KV memory held
// compared with the full cache.
std::string UsageLine(const Result& result,
                      const std::optional<KvPolicyRequest>& policy);

}  // namespace h2o
