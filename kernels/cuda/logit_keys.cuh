// Logits in order, for the kernels with a block a row.
#pragma once

#include <cstdint>

#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {

inline constexpr int kThreads = 1024;  // of a block
inline constexpr int kWarps = kThreads / kWarp;

// Orders as the logits do; equal logits (0 and -0 too) have equal keys.  NaN is
// above all, +Infinity next.
inline constexpr uint32_t kKeyOfInfinity = 0xff800000u;
__device__ __forceinline__ uint32_t KeyOf(float logit) {
  if (isnan(logit)) return ~0u;
  const uint32_t bits = logit == 0 ? 0 : __float_as_uint(logit);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float LogitOf(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// A column with its logit's key: the greater logit is above, and of equal ones
// the lower column.
__device__ __forceinline__ uint64_t PlaceOf(uint32_t key, uint32_t column) {
  return uint64_t{key} << 32 | ~column;
}
__device__ __forceinline__ uint32_t KeyOf(uint64_t place) {
  return static_cast<uint32_t>(place >> 32);
}
__device__ __forceinline__ int ColumnOf(uint64_t place) {
  return static_cast<int>(~static_cast<uint32_t>(place));
}

// The place of the greatest of row[columns], known to all threads.  The row
// starts at a multiple of 16 bytes and has whole vectors.  `of_warps` [kWarps]
// is shared, and free.
__device__ __forceinline__ uint64_t GreatestOf(const float* row, int columns,
                                               uint64_t* of_warps) {
  constexpr int kVector = 4;
  uint32_t key = 0;
  uint32_t column = kVector * threadIdx.x;
  for (int first = column; first < columns; first += kVector * kThreads) {
    const auto values = Load<kVector>(row + first);
    for (int j = 0; j < kVector; ++j) {
      const uint32_t other = KeyOf(values.at[j]);
      if (other > key && first + j < columns) {
        key = other;
        column = first + j;
      }
    }
  }
  return BlockReduce(PlaceOf(key, column), uint64_t{0}, of_warps, Greatest());
}

}  // namespace h2o::cuda
