// Turns a requested policy into slots of a head, and applies the H2O rule: it
// says which tokens a prompt keeps and which slot a new token replaces.
#include "base/kv_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

constexpr KvPolicyName kAllPolicies[] = {
    KvPolicyName::kFull, KvPolicyName::kH2o, KvPolicyName::kRecent,
    KvPolicyName::kSink};

bool InRange(double percent) { return percent > 0 && percent <= 100; }

// floor(prompt * percent / 100), but at least one page, the smallest unit of
// memory.  The percentage is rounded to thousandths first, so that 14.5 means
// 14.5 and not its nearest double.
int32_t ShareOf(double percent, int32_t prompt_tokens) {
  const int64_t thousandths = std::llround(percent * 1000);
  const int64_t share = prompt_tokens * thousandths / 100'000;
  return static_cast<int32_t>(std::max<int64_t>(share, kPageSlots));
}

// 0.2 is what other programs call 20 %.
std::string HintForFraction(std::string_view text) {
  double fraction = 0;
  if (!absl::SimpleAtod(std::string(text), &fraction) || fraction >= 1 ||
      std::llround(fraction * 100'000) < 1) {
    return "";
  }
  return absl::StrCat("; did you mean ", std::llround(fraction * 100'000) / 1e3,
                      "%?");
}

std::optional<int32_t> RequestedCapacity(const KvPolicyRequest& request,
                                         int32_t prompt_tokens) {
  if (request.budget_tokens) return request.budget_tokens;
  if (request.budget_percent) {
    return ShareOf(*request.budget_percent, prompt_tokens);
  }
  return std::nullopt;
}

absl::StatusOr<KvSlots> ResolveH2oSlots(const KvPolicyRequest& request,
                                        int32_t prompt_tokens) {
  std::optional<int32_t> capacity = RequestedCapacity(request, prompt_tokens);
  KvSlots slots;
  if (request.heavy || request.recent) {
    const int32_t heavy = request.heavy.value_or(capacity.value_or(0) -
                                                 request.recent.value_or(0));
    const int32_t recent = request.recent.value_or(capacity.value_or(0) -
                                                   request.heavy.value_or(0));
    if (heavy < 0 || recent < 1 || (capacity && heavy + recent != *capacity)) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv heavy ", heavy, " and recent ", recent,
                       " disagree with kv budget ", capacity.value_or(0),
                       "; their sum must be the budget, recent >= 1"));
    }
    slots = SlotsFor(KvPolicyName::kH2o, 1);
    slots.heavy = heavy;
    slots.recent = slots.prefill_recent = recent;
  } else {
    slots = SlotsFor(
        KvPolicyName::kH2o,
        capacity ? *capacity : ShareOf(kDefaultKvBudgetPercent, prompt_tokens));
  }
  if (request.flexgen_prefill) {
    if (slots.recent != slots.heavy + 1 || slots.heavy < 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "kv prefill flexgen needs an odd kv budget of at least 3 "
          "(2K - 1: heavy K - 1, recent K), not ",
          slots.Capacity()));
    }
    slots.prefill_recent = slots.recent - 1;
  }
  return slots;
}

}  // namespace

std::string_view Name(KvPolicyName name) {
  switch (name) {
    case KvPolicyName::kFull:
      return "full";
    case KvPolicyName::kH2o:
      return "h2o";
    case KvPolicyName::kRecent:
      return "recent";
    case KvPolicyName::kSink:
      return "sink";
  }
  return "?";
}

std::optional<KvPolicyName> ParseKvPolicyName(std::string_view name) {
  for (KvPolicyName p : kAllPolicies) {
    if (name == Name(p)) return p;
  }
  return std::nullopt;
}

absl::Status ParseKvBudget(std::string_view text, KvPolicyRequest* request) {
  absl::string_view number(text.data(), text.size());
  request->budget_tokens.reset();
  request->budget_percent.reset();
  if (!number.empty() && number.back() == '%') {
    number.remove_suffix(1);
    double percent = 0;
    if (absl::SimpleAtod(number, &percent) && InRange(percent)) {
      request->budget_percent = percent;
      return absl::OkStatus();
    }
  } else {
    int32_t tokens = 0;
    if (absl::SimpleAtoi(number, &tokens) && tokens >= 1) {
      request->budget_tokens = tokens;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("kv budget '", absl::string_view(text.data(), text.size()),
                   "' is neither a number of tokens >= 1 (40) nor a share of "
                   "the prompt over "
                   "0% and up to 100% (20%)",
                   HintForFraction(text)));
}

KvSlots SlotsFor(KvPolicyName name, int32_t capacity) {
  KvSlots slots;
  switch (name) {
    case KvPolicyName::kFull:
    case KvPolicyName::kRecent:
      break;
    case KvPolicyName::kSink:
      slots.sinks = std::min(4, capacity - 1);
      break;
    case KvPolicyName::kH2o:
      slots.heavy = capacity / 2;
      slots.score_rule = ScoreRule::kSum;
      break;
  }
  slots.recent = slots.prefill_recent = capacity - slots.sinks - slots.heavy;
  return slots;
}

absl::Status ValidateKvPolicyRequest(const KvPolicyRequest& request) {
  const auto invalid = [](auto&&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  const absl::string_view name(Name(request.name).data(),
                               Name(request.name).size());
  const bool has_budget = request.budget_tokens || request.budget_percent;
  if (request.budget_tokens && *request.budget_tokens < 1) {
    return invalid("kv budget of ", *request.budget_tokens,
                   " tokens; it must be at least 1");
  }
  if (request.budget_tokens && *request.budget_tokens > kMaxPositions) {
    return invalid("kv budget of ", *request.budget_tokens,
                   " tokens; it must be at most ", kMaxPositions);
  }
  if (request.budget_percent && !InRange(*request.budget_percent)) {
    return invalid("kv budget of ", *request.budget_percent,
                   "% of the prompt; it must be over 0 and at most 100");
  }
  if (request.name == KvPolicyName::kFull && has_budget) {
    return invalid(
        "kv policy full keeps everything and takes no budget; choose h2o, sink "
        "or recent, or leave the budget out");
  }
  const bool split = request.heavy || request.recent;
  if ((split || request.flexgen_prefill) &&
      request.name != KvPolicyName::kH2o) {
    return invalid(
        "kv heavy, recent and prefill flexgen go with kv policy h2o, "
        "not ",
        name);
  }
  if (request.heavy && *request.heavy < 0) {
    return invalid("kv heavy ", *request.heavy, "; it must be at least 0");
  }
  if (request.recent && *request.recent < 1) {
    return invalid("kv recent ", *request.recent, "; it must be at least 1");
  }
  if (split && !(request.heavy && request.recent) && !has_budget) {
    return invalid("kv heavy and kv recent go together, or with a kv budget");
  }
  if (request.heavy && request.recent) {
    const int64_t sum = int64_t{*request.heavy} + *request.recent;
    if (sum > kMaxPositions) {
      return invalid("kv heavy ", *request.heavy, " + recent ", *request.recent,
                     " is over ", kMaxPositions);
    }
    if (request.budget_tokens && *request.budget_tokens != sum) {
      return invalid("kv budget ", *request.budget_tokens, " is not kv heavy ",
                     *request.heavy, " + recent ", *request.recent, " = ", sum);
    }
  }
  if (request.flexgen_prefill && request.budget_tokens) {
    return ResolveH2oSlots(request, 1).status();
  }
  return absl::OkStatus();
}

absl::StatusOr<KvPolicy> ResolveKvPolicy(const KvPolicyRequest& request,
                                         int32_t prompt_tokens,
                                         int32_t max_tokens, int32_t cap) {
  H2O_RETURN_IF_ERROR(ValidateKvPolicyRequest(request));
  KvPolicy policy;
  policy.name = request.name;
  switch (request.name) {
    case KvPolicyName::kFull:
      policy.slots = {SlotsFor(request.name, prompt_tokens + max_tokens - 1)};
      break;
    case KvPolicyName::kH2o: {
      H2O_ASSIGN_OR_RETURN(KvSlots slots,
                           ResolveH2oSlots(request, prompt_tokens));
      policy.slots = {slots};
      break;
    }
    case KvPolicyName::kRecent:
    case KvPolicyName::kSink:
      policy.slots = {SlotsFor(
          request.name,
          RequestedCapacity(request, prompt_tokens)
              .value_or(ShareOf(kDefaultKvBudgetPercent, prompt_tokens)))};
      break;
  }
  const int32_t capacity = policy.slots[0].Capacity();
  if (cap > 0 && capacity > cap) {
    return absl::InvalidArgumentError(absl::StrCat(
        "kv policy ",
        absl::string_view(Name(request.name).data(), Name(request.name).size()),
        " would hold ", capacity, " slots a head; this server's cap is ", cap));
  }
  return policy;
}

int ChooseVictim(const KvSlots& slots, absl::Span<const uint16_t> positions,
                 absl::Span<const float> scores, int32_t position) {
  const int32_t first_recent = position - slots.recent + 1;
  int victim = -1;
  for (int i = 0; i < static_cast<int>(positions.size()); ++i) {
    if (positions[i] < slots.sinks || positions[i] >= first_recent) continue;
    if (victim < 0 || scores[i] < scores[victim] ||
        (scores[i] == scores[victim] && positions[i] > positions[victim])) {
      victim = i;
    }
  }
  H2O_CHECK(victim >= 0) << "no candidate among " << positions.size()
                         << " slots at position " << position;
  return victim;
}

std::vector<int32_t> SelectKept(const KvSlots& slots,
                                absl::Span<const float> scores) {
  const int32_t length = static_cast<int32_t>(scores.size());
  std::vector<int32_t> kept(length);
  std::iota(kept.begin(), kept.end(), 0);
  if (length <= slots.Capacity()) return kept;
  const int32_t first_recent = length - slots.prefill_recent;
  const int32_t num_heavy =
      slots.Capacity() - slots.sinks - slots.prefill_recent;
  const auto begin = kept.begin() + slots.sinks;
  // A NaN (of a broken model) counts as the greatest score, because sorting
  // needs a total order.
  const auto score = [&](int32_t i) {
    return std::isnan(scores[i]) ? std::numeric_limits<float>::infinity()
                                 : scores[i];
  };
  std::nth_element(begin, begin + num_heavy, kept.begin() + first_recent,
                   [&](int32_t a, int32_t b) {
                     return score(a) != score(b) ? score(a) > score(b) : a < b;
                   });
  kept.erase(begin + num_heavy, kept.begin() + first_recent);
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace h2o
