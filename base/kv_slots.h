// The policy of one head as numbers: what kernels of any device interpret.
// base/kv_policy.h tells the rule.  Plain enough for device compilers.
#pragma once

#include <cstdint>

#include "base/kv_page.h"

namespace h2o {

enum class ScoreRule : uint8_t {
  kNone = 0,  // scores are not needed and not kept
  kSum = 1,   // column sums of the attention probabilities
};

// The policy of one head of one sequence.  Trivially copyable: goes to devices.
struct KvSlots {
  int32_t sinks = 0;
  int32_t heavy = 0;
  int32_t recent = 1;          // >= 1: a token survives its own step
  int32_t prefill_recent = 1;  // `recent` of the selection after the prompt
  ScoreRule score_rule = ScoreRule::kNone;

  constexpr int32_t Capacity() const { return sinks + heavy + recent; }
  friend bool operator==(const KvSlots&, const KvSlots&) = default;
};

}  // namespace h2o
