// Weights of codes in the order in which tensor cores take them, and how a
// thread widens them to 16 bits in registers.
//
// A tile of 128 outputs and 128 inputs lies in one piece: for each of its two
// halves of 64 outputs, vectors of 16 bytes [vector][thread of a warp group]. A
// vector holds the codes of a thread's A fragments (mma.cuh) of several steps
// of 16 inputs, int4: 4 steps, a word each; 8 bits: 2 steps, two words each.
// Pair p of a fragment is the word's bits that are left by
//
//   int4    (word >> 4 p) & 0x000f000f
//   8 bits  (word p / 2 >> 8 (p % 2)) & 0x00ff00ff
//
// so that two codes become two numbers of 16 bits by masks alone, without a
// table.  Tiles lie along inputs first.  Of int4, the scales of a tile are
// GroupScale [group][128 outputs].  Codes and scales behind the last output and
// the last input are zero.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "base/weight_format.h"

namespace h2o::cuda {

inline constexpr int kTileOutputs = 128, kTileInputs = 128;
inline constexpr int kTileSteps = kTileInputs / 16;
static_assert(kTileInputs == kCodeBlock && kTileOutputs == kCodeBlock);

// Of a format, compile-time.
template <WeightFormat kFormat>
struct CodedTile {
  static constexpr int kBits = BitsOf(kFormat);
  static constexpr int kBytes = kTileOutputs * kTileInputs * kBits / 8;
  static constexpr int kVectors = kTileSteps * kBits / 16;  // of a thread
  static constexpr int kStepsOfVector = kTileSteps / kVectors;
};

// Two numbers of a kind, and what widening needs of it.
template <class T>
struct Pairs;
template <>
struct Pairs<__nv_bfloat16> {
  using Two = __nv_bfloat162;
  static constexpr uint32_t kBase = 0x43004300;  // 128: steps of 1 above it
  static constexpr int kBaseBits = 7;
  static constexpr int kFp8Shift = 4;                // of exponent and fraction
  static constexpr uint32_t kFp8Scale = 0x7b807b80;  // 2^120
};
template <>
struct Pairs<__half> {
  using Two = __half2;
  static constexpr uint32_t kBase = 0x64006400;  // 1024
  static constexpr int kBaseBits = 10;
  static constexpr int kFp8Shift = 7;
  static constexpr uint32_t kFp8Scale = 0x5c005c00;  // 2^8
};

// CUDA's pairs cannot be cast to bits by value.
template <class Two>
__device__ __forceinline__ uint32_t BitsOfPair(const Two& pair) {
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <class Two>
__device__ __forceinline__ const Two& PairOfBits(const uint32_t& bits) {
  return *reinterpret_cast<const Two*>(&bits);
}
template <class T>
__device__ __forceinline__ uint32_t Subtract(uint32_t a, uint32_t b) {
  using Two = typename Pairs<T>::Two;
  return BitsOfPair(__hsub2(PairOfBits<Two>(a), PairOfBits<Two>(b)));
}
template <class T>
__device__ __forceinline__ uint32_t Times(uint32_t a, uint32_t b) {
  using Two = typename Pairs<T>::Two;
  return BitsOfPair(__hmul2(PairOfBits<Two>(a), PairOfBits<Two>(b)));
}

// What a group subtracts and multiplies with, twice each.
struct PairScale {
  uint32_t base_and_zero, scale;
};
template <class T>
__device__ __forceinline__ PairScale ToPairScale(uint32_t scale,
                                                 uint32_t zero) {
  if constexpr (std::is_same_v<T, __half>) {
    const float wide = __uint_as_float(scale << 16);
    scale = __half_as_ushort(__float2half_rn(wide));
  }
  // A zero point is below 2^kBaseBits: the sum is exact.
  return {Pairs<T>::kBase + zero * 0x10001, scale | scale << 16};
}
template <class T>
__device__ __forceinline__ PairScale ToPairScale(GroupScale s) {
  return ToPairScale<T>(s.scale, s.zero);
}

// (a & mask) | bits, one instruction, which the compiler makes two of.
__device__ __forceinline__ uint32_t AndOr(uint32_t a, uint32_t mask,
                                          uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"
      : "=r"(result)
      : "r"(a), "r"(mask), "r"(bits));
  return result;
}

// Pair p of an int4 word.  The difference is exact, the product is rounded.
template <class T>
__device__ __forceinline__ uint32_t WidenInt4(uint32_t word, int p,
                                              PairScale of) {
  const uint32_t based = AndOr(word >> (4 * p), 0x000f000f, Pairs<T>::kBase);
  return Times<T>(Subtract<T>(based, of.base_and_zero), of.scale);
}

// Two codes of 8 bits, at bits 0 and 16, exactly; scales are of outputs, and
// come at the end.
template <class T>
__device__ __forceinline__ uint32_t WidenInt8(uint32_t codes) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    // Seven bits above 128, less 128 or 256 as the sign says.
    return Subtract<T>(AndOr(codes, 0x007f007f, Pairs<T>::kBase),
                       AndOr(codes, 0x00800080, Pairs<T>::kBase));
  } else {
    // Eight bits above 1024, with the sign turned, less 1152.
    return Subtract<T>(AndOr(codes ^ 0x00800080, 0x00ff00ff, Pairs<T>::kBase),
                       0x64806480);
  }
}
// The fields of e4m3 move to where T has them; the product puts the exponent
// right, of subnormals too.
template <class T>
__device__ __forceinline__ uint32_t WidenFp8(uint32_t codes) {
  const uint32_t moved = (codes & 0x00800080) << 8 | (codes & 0x007f007f)
                                                         << Pairs<T>::kFp8Shift;
  return Times<T>(moved, Pairs<T>::kFp8Scale);
}

// The fragment of step `step` of a vector.  of_rows: of int4, the scales of the
// thread's rows g and g + 8.
template <class T, WeightFormat kFormat>
__device__ __forceinline__ void WidenStep(const uint4& vector, int step,
                                          const PairScale (&of_rows)[2],
                                          uint32_t (&a)[4]) {
  const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    if constexpr (kFormat == WeightFormat::kInt4) {
      a[p] = WidenInt4<T>(words[step], p, of_rows[p % 2]);
    } else {
      const uint32_t codes = words[2 * step + p / 2] >> (8 * (p % 2));
      a[p] = kFormat == WeightFormat::kInt8 ? WidenInt8<T>(codes)
                                            : WidenFp8<T>(codes);
    }
  }
}

}  // namespace h2o::cuda
