// What a page of the KV cache looks like in memory.
//
// A page is kPageSlots slots of one layer and one head of one sequence:
//
//   keys       [kPageSlots, head_dim]  dtype
//   values     [kPageSlots, head_dim]  dtype
//   scores     [kPageSlots]            float32
//   positions  [kPageSlots]            uint16
//
// each run contiguous, so that a page moves as few bulk copies, and each page a
// whole number of cache lines, so that no copy and no score that is written
// touches a line of another page: unaligned pages cost 1.5 to 4 % of decode
// attention on an H200.  Only kernels/ and kv/ may know this.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace h2o {

inline constexpr int kPageSlots = 32;

inline constexpr int kPageAlignment = 128;  // a cache line of a GPU, in bytes

// The positions of a sequence are stored in 16 bits.
inline constexpr int kMaxPositions = 1 << 16;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct KvPageLayout {
  int head_dim = 0;
  DType dtype = DType::kFloat32;  // of keys and values

  constexpr int64_t RunBytes() const {  // of keys, and of values
    return static_cast<int64_t>(kPageSlots) * head_dim * SizeOf(dtype);
  }
  constexpr int64_t KeysOffset() const { return 0; }
  constexpr int64_t ValuesOffset() const { return RunBytes(); }
  constexpr int64_t ScoresOffset() const { return 2 * RunBytes(); }
  constexpr int64_t PositionsOffset() const {
    return ScoresOffset() + kPageSlots * 4;
  }
  constexpr int64_t UsedBytes() const {
    return PositionsOffset() + kPageSlots * 2;
  }
  constexpr int64_t PageBytes() const {
    return CeilDiv(UsedBytes(), kPageAlignment) * kPageAlignment;
  }

  friend bool operator==(const KvPageLayout&, const KvPageLayout&) = default;
};

}  // namespace h2o
