// How much attention a sequence's KV cache still holds: of all the attention
// that its tokens have given so far, the share that went to tokens which are
// still stored.
//
// Every query of a head gives attention of 1 in all, its probabilities.  A
// score is the attention that a stored token has received (docs/h2o.md), and it
// leaves with its token.  So
//
//   kept = (sum of all stored scores) / (queries * heads that keep scores)
//
// 1 means that nothing was evicted.  The attention that later queries would
// have given to evicted tokens is not known, and not counted.
#pragma once

#include <cstdint>
#include <optional>

#include "base/kv_policy.h"
#include "base/qkv_layout.h"

namespace h2o {

// `stored_scores`: summed over all heads of all ranks and `num_layers` layers,
// after `queries` tokens.  Nothing if no head of `policy` keeps scores.
inline std::optional<double> AttentionMassKept(double stored_scores,
                                               int64_t queries,
                                               const KvPolicy& policy,
                                               const QkvLayout& qkv,
                                               int num_layers) {
  // A KV head's score sums over the query heads that share it.
  const int64_t queries_of_a_kv_head = qkv.heads / qkv.kv_heads;
  const bool alike = policy.slots.size() == 1;
  int64_t scored = 0;
  for (const KvSlots& slots : policy.slots) {
    if (slots.score_rule == ScoreRule::kNone) continue;
    scored += alike ? int64_t{num_layers} * qkv.kv_heads : 1;
  }
  if (scored == 0 || queries == 0) return std::nullopt;
  return stored_scores /
         (static_cast<double>(queries) * scored * queries_of_a_kv_head);
}

}  // namespace h2o
