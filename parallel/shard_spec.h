// Who owns what of a model that is sharded over `size` ranks: heads, FFN
// columns and vocabulary rows.  A pure function of (rank, size), so that every
// rank and the coordinator compute it alike.
#pragma once

#include <cstdint>

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
  Range heads;        // of the model's attention heads
  Range ffn_columns;  // of ffn_dim
  Range vocabulary;   // of vocab_size: rows of the output head

  static constexpr ShardSpec Of(int rank, int size, int64_t num_heads,
                                int64_t ffn_dim, int64_t vocab_size) {
    return {rank, size, ShardOf(num_heads, rank, size),
            ShardOf(ffn_dim, rank, size), ShardOf(vocab_size, rank, size)};
  }
};

}  // namespace h2o
