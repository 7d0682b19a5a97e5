// What the small kernels share: vectors of numbers that move at once, and sums
// over warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "base/dtype.h"

namespace h2o::cuda {

// ---- vectors ----------------------------------------------------------------

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float ToFloat(__half x) { return __half2float(x); }

// Round to nearest even.
__device__ __forceinline__ void FromFloat(float x, float* out) { *out = x; }
__device__ __forceinline__ void FromFloat(float x, __nv_bfloat16* out) {
  *out = __float2bfloat16_rn(x);
}
__device__ __forceinline__ void FromFloat(float x, __half* out) {
  *out = __float2half_rn(x);
}

// kSize numbers side by side, at most 16 bytes, aligned to their size.
template <class T, int kSize>
struct alignas(kSize * sizeof(T)) Vector {
  static_assert(kSize * sizeof(T) <= 16);
  T at[kSize];
};

// REQUIRES: `p` is aligned to the vector's size.
template <int kSize, class T>
__device__ __forceinline__ Vector<T, kSize> Load(const T* p) {
  return *reinterpret_cast<const Vector<T, kSize>*>(p);
}
template <class T, int kSize>
__device__ __forceinline__ void Store(const Vector<T, kSize>& x, T* p) {
  *reinterpret_cast<Vector<T, kSize>*>(p) = x;
}

// Calls fn with a number of the C++ type of a 16-bit format.
template <class Fn>
cudaError_t DispatchFormat(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::kBFloat16:
      return fn(__nv_bfloat16());
    case DType::kFloat16:
      return fn(__half());
    default:
      return cudaErrorInvalidValue;
  }
}

// ---- warps and blocks -------------------------------------------------------

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int Lane() { return threadIdx.x % kWarp; }
__device__ __forceinline__ int WarpInBlock() { return threadIdx.x / kWarp; }

// combine() of all lanes' x, known to all of them.  The order is fixed.
template <class T, class Combine>
__device__ __forceinline__ T WarpReduce(T x, Combine combine) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    x = combine(x, __shfl_xor_sync(kAllLanes, x, mask));
  }
  return x;
}

// The same over a block of whole warps.  `of_warps` [kWarp] is shared, and for
// this reduction alone: no barrier follows the last reading.
template <class T, class Combine>
__device__ __forceinline__ T BlockReduce(T x, T neutral, T* of_warps,
                                         Combine combine) {
  x = WarpReduce(x, combine);
  if (Lane() == 0) of_warps[WarpInBlock()] = x;
  __syncthreads();
  const bool exists = Lane() < blockDim.x / kWarp;
  return WarpReduce(exists ? of_warps[Lane()] : neutral, combine);
}

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
// A NaN loses.
struct Greatest {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const {
    return a > b ? a : b;
  }
};

}  // namespace h2o::cuda
