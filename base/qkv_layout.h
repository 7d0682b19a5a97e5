// How the queries, keys and values of one token lie side by side in a row:
//
//   queries [heads][head_dim] | keys [kv_heads][head_dim] | values likewise
//
// With kv_heads == heads each query head has keys and values of its own
// (multi-head attention, OPT).  With fewer, `group()` neighbouring query heads
// share one KV head (grouped-query attention, Ainslie et al. 2023).
#pragma once

#include <cstdint>

namespace h2o {

struct QkvLayout {
  int heads = 0;     // query heads
  int kv_heads = 0;  // divides `heads`
  int head_dim = 0;

  constexpr int group() const { return heads / kv_heads; }
  // Of the queries; attention's output is as wide.
  constexpr int64_t query_columns() const { return int64_t{heads} * head_dim; }
  // Of the keys, and of the values.
  constexpr int64_t kv_columns() const { return int64_t{kv_heads} * head_dim; }
  constexpr int64_t columns() const {
    return query_columns() + 2 * kv_columns();
  }
  friend constexpr bool operator==(const QkvLayout&,
                                   const QkvLayout&) = default;
};

}  // namespace h2o
