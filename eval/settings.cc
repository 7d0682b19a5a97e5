// Reads lists of policies and budgets.
#include "eval/settings.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace h2o {

absl::StatusOr<std::vector<EvalSetting>> ParseSettings(
    const std::string& policies, const std::string& budgets) {
  std::vector<std::string> shares;
  for (const absl::string_view budget : absl::StrSplit(budgets, ',')) {
    KvPolicyRequest ignored;
    shares.emplace_back(budget);
    H2O_RETURN_IF_ERROR(ParseKvBudget(shares.back(), &ignored));
  }
  std::vector<EvalSetting> settings;
  for (const absl::string_view word : absl::StrSplit(policies, ',')) {
    const auto policy = ParseKvPolicyName(std::string(word));
    if (!policy) {
      return absl::InvalidArgumentError(absl::StrCat(
          "policies: \"", word, "\"; there are full, h2o, recent and sink"));
    }
    if (*policy == KvPolicyName::kFull) {
      settings.push_back({*policy, ""});
      continue;
    }
    for (const std::string& share : shares) {
      settings.push_back({*policy, share});
    }
  }
  return settings;
}

absl::StatusOr<KvPolicyRequest> PolicyOf(const EvalSetting& setting,
                                         int tokens) {
  KvPolicyRequest request{.name = setting.policy};
  if (setting.policy == KvPolicyName::kFull) return request;
  H2O_RETURN_IF_ERROR(ParseKvBudget(setting.budget, &request));
  if (!request.budget_percent) return request;
  H2O_ASSIGN_OR_RETURN(const KvPolicy resolved,
                       ResolveKvPolicy(request, tokens, 1, 0));
  request.budget_percent.reset();
  request.budget_tokens = resolved.slots[0].Capacity();
  return request;
}

}  // namespace h2o
