// Tells people what one answer took.
#include "clients/output.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/kv_page.h"

namespace h2o {

std::string PolicyText(const KvPolicyRequest& policy, int32_t prompt_tokens) {
  std::string name(Name(policy.name));
  if (policy.name == KvPolicyName::kFull) return name;
  const absl::StatusOr<KvPolicy> resolved =
      ResolveKvPolicy(policy, prompt_tokens, 1, 0);
  H2O_CHECK(resolved.ok()) << resolved.status().ToString();
  const int32_t slots = resolved->slots[0].Capacity();
  std::string text = absl::StrCat(name, ", ", slots, " slots");
  if (policy.budget_tokens || policy.heavy || policy.recent) return text;
  const double percent =
      policy.budget_percent.value_or(kDefaultKvBudgetPercent);
  absl::StrAppend(&text, ": ", percent, " % of ", prompt_tokens, " tokens");
  if (percent / 100 * prompt_tokens < slots && slots == kPageSlots) {
    absl::StrAppend(&text, ", at least one page");
  }
  return text;
}

std::string UsageLine(const Result& result,
                      const std::optional<KvPolicyRequest>& policy) {
  const Usage& usage = result.usage;
  return absl::StrFormat(
      "%d + %d tokens; KV: %s%d slots a head held, %d tokens evicted, %.0f KiB "
      "of the full cache's %.0f (%.0f %%)",
      usage.prompt_tokens, usage.completion_tokens,
      policy ? PolicyText(*policy, usage.prompt_tokens) + "; " : "",
      usage.kv_slots_held, usage.tokens_evicted, usage.kv_bytes / 1024.0,
      usage.kv_bytes_full / 1024.0,
      100.0 * usage.kv_bytes / std::max<int64_t>(1, usage.kv_bytes_full));
}

}  // namespace h2o
