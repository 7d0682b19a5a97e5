// Rounds rows of activations to e4m3, one scale a row (base/fp8_rows.h).
#include <cuda_fp8.h>

#include <algorithm>
#include <cstdint>

#include "base/fp8_rows.h"
#include "base/kv_page.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {
namespace {

constexpr int kVector = 8;  // numbers that a thread loads at once
constexpr int kMostThreads = 1024;

__device__ __forceinline__ uint32_t Magnitude(float x) {
  return __float_as_uint(x) & 0x7fffffffu;
}

template <class T>
__device__ __forceinline__ uint2 ToCodes(const Vector<T, kVector>& x,
                                         float inverse) {
  uint32_t words[2] = {};
#pragma unroll
  for (int i = 0; i < kVector; i += 2) {
    const float2 pair = {ToFloat(x.at[i]) * inverse,
                         ToFloat(x.at[i + 1]) * inverse};
    const uint32_t codes =
        __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
    words[i / 4] |= codes << (i % 4 * 8);
  }
  return {words[0], words[1]};
}

// A block rounds a row, which its threads hold meanwhile.
template <class T, int kVectors>
__global__ void __launch_bounds__(kMostThreads)
    RoundRowsKernel(const __grid_constant__ RoundRowsArgs a) {
  __shared__ uint32_t of_warps[kWarp];
  const int64_t row = blockIdx.x;
  const T* const from = static_cast<const T*>(a.x) + row * a.x_stride;
  const auto column = [&](int v) {
    return (v * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) *
           kVector;
  };
  WaitForPrevious();
  AllowNext();  // behind the wait: attention relies on that
  Vector<T, kVector> x[kVectors] = {};
  uint32_t most = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (column(v) < a.columns) x[v] = Load<kVector>(from + column(v));
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (const T& number : x[v].at) {
      most = max(most, Magnitude(ToFloat(number)));
    }
  }
  most = BlockReduce(most, 0u, of_warps,
                     [](uint32_t a, uint32_t b) { return max(a, b); });
  const Fp8RowScale scale = Fp8ScaleOf(most);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= a.stride) continue;
    *reinterpret_cast<uint2*>(a.codes + row * a.stride + column(v)) =
        ToCodes(x[v], scale.inverse);
  }
  if (threadIdx.x == 0) a.scales[row] = scale.scale;
}

template <class T, int kVectors>
cudaError_t LaunchFor(const RoundRowsArgs& args, cudaStream_t stream) {
  const int64_t threads = CeilDiv(args.stride, int64_t{kVector * kVectors});
  return Launch(RoundRowsKernel<T, kVectors>,
                {dim3(args.rows),
                 static_cast<int>(CeilDiv(threads, int64_t{kWarp}) * kWarp)},
                stream, args);
}

template <class T>
cudaError_t LaunchAs(const RoundRowsArgs& args, cudaStream_t stream) {
  constexpr int64_t kOnce = kVector * kMostThreads;
  if (args.stride <= kOnce) return LaunchFor<T, 1>(args, stream);
  if (args.stride <= 2 * kOnce) return LaunchFor<T, 2>(args, stream);
  if (args.stride <= 4 * kOnce) return LaunchFor<T, 4>(args, stream);
  if (args.stride <= 8 * kOnce) return LaunchFor<T, 8>(args, stream);
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t RoundRows(const RoundRowsArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return DispatchFormat(args.dtype, [&](auto format) {
    return LaunchAs<decltype(format)>(args, stream);
  });
}

}  // namespace h2o::cuda
