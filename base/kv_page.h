// How the KV cache stores the keys and values of a head, and what a page of
// them looks like in memory.
//
// A page is kPageSlots slots of one layer and one head of one sequence.  Its
// parts lie one behind the other, so that a page is copied in few pieces:
//
//   keys       [kPageSlots, head_dim]  format.dtype
//   values     [kPageSlots, head_dim]  format.dtype
//   tail: scores     [kPageSlots]      float32
//         positions  [kPageSlots]      uint16
//
// A page starts at a multiple of kLineBytes and is a whole number of lines, so
// no two pages share a cache line: unaligned pages made decode attention 1.5 to
// 4 % slower on an H200.  The number of a page is that of its first line, which
// addresses pages of all sizes alike: 32 bits reach kMaxPoolBytes.
//
// Attention kernels and kv/ read and write pages.  All others ask only for
// sizes (kv/kv_geometry.h).
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace h2o {

inline constexpr int kPageSlots = 32;

inline constexpr int kLineBytes = 128;  // a cache line of a GPU
inline constexpr int64_t kMaxPoolBytes = int64_t{kLineBytes} << 32;

// The positions of a sequence are stored in 16 bits.
inline constexpr int kMaxPositions = 1 << 16;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the keys and values of one head are stored.  At most 4 bytes, because
// every KvHead that the kernels read holds one (kernels/kv_head.h).
struct KvFormat {
  DType dtype = DType::kFloat32;  // of keys and of values

  friend constexpr bool operator==(const KvFormat&, const KvFormat&) = default;
};

// Where the parts of a page lie, in bytes from its start.
struct KvPageLayout {
  int head_dim = 0;
  KvFormat format;

  constexpr int64_t RowBytes() const {  // of one key, and of one value
    return int64_t{head_dim} * SizeOf(format.dtype);
  }
  constexpr int64_t KeysOffset() const { return 0; }
  constexpr int64_t ValuesOffset() const { return kPageSlots * RowBytes(); }
  constexpr int64_t ScoresOffset() const { return 2 * kPageSlots * RowBytes(); }
  constexpr int64_t PositionsOffset() const {
    return ScoresOffset() + kPageSlots * 4;
  }
  constexpr int64_t TailBytes() const { return kPageSlots * (4 + 2); }
  constexpr int64_t PageBytes() const {
    return CeilDiv(ScoresOffset() + TailBytes(), kLineBytes) * kLineBytes;
  }

  friend bool operator==(const KvPageLayout&, const KvPageLayout&) = default;
};

}  // namespace h2o
