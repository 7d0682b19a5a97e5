// A KV policy is data.  It says which of a sequence's tokens a head keeps.
//
// A head with slots {sinks, heavy, recent} stores at most C = sinks + heavy +
// recent tokens: the first `sinks` of the sequence, the `recent` newest, and of
// the rest the `heavy` with the greatest scores.  Under the score rule kSum a
// token's score is the sum over all queries so far of the attention
// probability it received, its own query included (H2O: Zhang et al., "H2O:
// Heavy-Hitter Oracle for Efficient Generative Inference of Large Language
// Models", NeurIPS 2023, arXiv 2306.14048).  Of equal scores the older
// position stays.  docs/h2o.md has the whole rule.
//
// The CPU and CUDA kernels interpret the same numbers; ChooseVictim and
// SelectKept here are the plain reference both are tested against.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/kv_slots.h"

namespace h2o {

enum class KvPolicyName : uint8_t {
  kFull = 0,
  kH2o = 1,
  kRecent = 2,
  kSink = 3
};
std::string_view Name(KvPolicyName name);
std::optional<KvPolicyName> ParseKvPolicyName(std::string_view name);

// What a request (or an operator, as the default) asks for, not yet resolved
// against a prompt.  At most one of budget_tokens and budget_percent is set.
struct KvPolicyRequest {
  KvPolicyName name = KvPolicyName::kFull;
  std::optional<int32_t> budget_tokens;
  std::optional<double> budget_percent;  // of the prompt
  std::optional<int32_t> heavy;          // h2o only; with `recent`
  std::optional<int32_t> recent;         // h2o only; with `heavy`
  bool flexgen_prefill = false;          // h2o only; the budget must be odd
};

// What `h2o`, `recent` and `sink` keep when no budget is named: a share of the
// prompt.
inline constexpr double kDefaultKvBudgetPercent = 20;

// "40" is tokens, "20%" a share of the prompt.
// Errors: INVALID_ARGUMENT naming `text`.
absl::Status ParseKvBudget(std::string_view text, KvPolicyRequest* request);

// A policy resolved against one prompt: what every head may store.
// `slots` has one entry that holds for all heads, or num_layers * num_heads
// (layer-major, heads of the whole model).
struct KvPolicy {
  KvPolicyName name = KvPolicyName::kFull;
  std::vector<KvSlots> slots;

  const KvSlots& At(int layer, int head, int num_heads) const {
    return slots.size() == 1
               ? slots[0]
               : slots[static_cast<size_t>(layer) * num_heads + head];
  }

  friend bool operator==(const KvPolicy&, const KvPolicy&) = default;
};

// The slots of a named policy at budget `capacity` (>= 1).
KvSlots SlotsFor(KvPolicyName name, int32_t capacity);

// Resolves `request` for a prompt of `prompt_tokens` that will generate at most
// `max_tokens`.  `full` stores everything: prompt_tokens + max_tokens - 1.
// A share is floor(prompt * percent / 100) in exact arithmetic (the percentage
// first rounded to thousandths), at least one page.  `cap` limits the slots of
// a head; 0 is no cap.
// Errors: INVALID_ARGUMENT with the value and what would be right.
absl::StatusOr<KvPolicy> ResolveKvPolicy(const KvPolicyRequest& request,
                                         int32_t prompt_tokens,
                                         int32_t max_tokens, int32_t cap);

// Checks what needs no prompt (for defaults at start-up and requests at the
// door).  Errors: as ResolveKvPolicy.
absl::Status ValidateKvPolicyRequest(const KvPolicyRequest& request);

// Which slot token `position` overwrites, given the `capacity` stored slots and
// the scores after this step.  Returns an index into `positions`.
// REQUIRES: positions.size() == scores.size() == slots.Capacity().
int ChooseVictim(const KvSlots& slots, absl::Span<const uint16_t> positions,
                 absl::Span<const float> scores, int32_t position);

// The positions kept after a prompt whose tokens have `scores`, ascending.
std::vector<int32_t> SelectKept(const KvSlots& slots,
                                absl::Span<const float> scores);

}  // namespace h2o
