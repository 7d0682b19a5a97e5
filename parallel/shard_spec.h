// The part of a model that each of `size` tensor-parallel ranks owns: heads,
// FFN columns and vocabulary rows.  A pure function of (rank, size), so every
// rank and the coordinator compute the same.
#pragma once

#include <cstdint>

#include "base/qkv_layout.h"

namespace h2o {

// Half-open [begin, end).
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  constexpr int64_t size() const { return end - begin; }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

// Cuts [0, total) in `size` contiguous parts that differ by at most one, the
// larger ones first: 6 over 4 is 2, 2, 1, 1.
constexpr Range ShardOf(int64_t total, int rank, int size) {
  const int64_t base = total / size, extra = total % size;
  const int64_t begin = rank * base + (rank < extra ? rank : extra);
  return {begin, begin + base + (rank < extra ? 1 : 0)};
}

struct ShardSpec {
  int rank = 0;
  int size = 1;
  Range heads;        // of the model's query heads: whole groups
  Range kv_heads;     // of the model's KV heads
  QkvLayout qkv;      // of this rank's heads
  Range ffn_columns;  // of ffn_dim
  Range vocabulary;   // of vocab_size: rows of the output head

  // A KV head and the query heads that read it stay together.
  static constexpr ShardSpec Of(int rank, int size, const QkvLayout& model,
                                int64_t ffn_dim, int64_t vocab_size) {
    const Range kv_heads = ShardOf(model.kv_heads, rank, size);
    const int group = model.group();
    const Range heads{kv_heads.begin * group, kv_heads.end * group};
    const QkvLayout qkv{static_cast<int>(heads.size()),
                        static_cast<int>(kv_heads.size()), model.head_dim};
    return {rank,
            size,
            heads,
            kv_heads,
            qkv,
            ShardOf(ffn_dim, rank, size),
            ShardOf(vocab_size, rank, size)};
  }
};

}  // namespace h2o
