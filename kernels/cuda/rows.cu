// What lies between the matrix products: rows in, rows out.
#include <cstdint>

#include "base/kv_page.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {
namespace {

constexpr int kColumns = 8;  // of a vector of 16 bytes
constexpr int kThreads = 256;

// Kernels with a vector a thread: blocks side by side along each row.
dim3 GridOfRows(int rows, int columns) {
  return dim3(rows, static_cast<unsigned>(
                        CeilDiv(CeilDiv(columns, kColumns), kThreads)));
}
__device__ __forceinline__ int FirstColumn() {
  return (blockIdx.y * kThreads + threadIdx.x) * kColumns;
}

// ---- copies of rows ---------------------------------------------------------

// out[i] = table[indices[i] - first], zero where the table has no such row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    CopyRowsKernel(const int32_t* indices, int first, const T* table,
                   int64_t table_rows, int64_t table_stride, int columns,
                   T* out, int64_t out_stride) {
  WaitForPrevious();
  AllowNext();
  const int column = FirstColumn();
  if (column >= columns) return;
  const int64_t row = int64_t{indices[blockIdx.x]} - first;
  Vector<T, kColumns> values = {};
  if (row >= 0 && row < table_rows) {
    values = Load<kColumns>(table + row * table_stride + column);
  }
  Store(values, out + blockIdx.x * out_stride + column);
}

cudaError_t CopyRows(const int32_t* indices, int count, int first,
                     const void* table, int64_t table_rows,
                     int64_t table_stride, int columns, DType dtype, void* out,
                     int64_t out_stride, cudaStream_t stream) {
  if (columns % kColumns != 0) return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  return DispatchFormat(dtype, [&](auto format) {
    using T = decltype(format);
    return Launch(CopyRowsKernel<T>, GridOfRows(count, columns), kThreads,
                  stream, indices, first, static_cast<const T*>(table),
                  table_rows, table_stride, columns, static_cast<T*>(out),
                  out_stride);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    AddPositionsKernel(const T* delta, int64_t delta_stride,
                       const int32_t* positions, const T* table,
                       int64_t table_stride, int columns, float* x,
                       int64_t x_stride) {
  WaitForPrevious();
  AllowNext();
  const int column = FirstColumn();
  if (column >= columns) return;
  const int64_t row = blockIdx.x;
  const int64_t position = max(positions[row], 0);
  const auto a = Load<kColumns>(delta + row * delta_stride + column);
  const auto b = Load<kColumns>(table + position * table_stride + column);
  float* to = x + row * x_stride + column;
  for (int half = 0; half < kColumns; half += 4) {
    Vector<float, 4> sum;
    for (int j = 0; j < 4; ++j) {
      sum.at[j] = ToFloat(a.at[half + j]) + ToFloat(b.at[half + j]);
    }
    Store(sum, to + half);
  }
}

// ---- AddNorm ----------------------------------------------------------------

constexpr float kEpsilon = 1e-5f;

// A thread's share of AddNorm is vectors of 4 columns: a warp then reads x, of
// float32, in one piece.
constexpr int kShare = 4;
using Floats = Vector<float, kShare>;

struct Affine {
  Floats weight, bias;
};

template <class T>
__device__ __forceinline__ Vector<T, kShare> LoadBias(const AddNormArgs& a,
                                                      int column) {
  if (a.bias == nullptr) return {};
  return Load<kShare>(static_cast<const T*>(a.bias) + column);
}

__device__ __forceinline__ Affine LoadAffine(const AddNormArgs& a, int column) {
  Affine affine = {{{1, 1, 1, 1}}, {}};
  if (a.weight) affine.weight = Load<kShare>(a.weight + column);
  if (a.norm_bias) affine.bias = Load<kShare>(a.norm_bias + column);
  return affine;
}

template <class T>
__device__ __forceinline__ void PrefetchParameters(const AddNormArgs& a,
                                                   int column) {
  if (a.bias) PrefetchLine(static_cast<const T*>(a.bias) + column);
  if (a.weight) PrefetchLine(a.weight + column);
  if (a.norm_bias) PrefetchLine(a.norm_bias + column);
}

template <class T>
__device__ __forceinline__ void StoreRounded(const Floats& x, T* out) {
  Vector<T, kShare> rounded;
  for (int j = 0; j < kShare; ++j) FromFloat(x.at[j], &rounded.at[j]);
  Store(rounded, out);
}

// Vectors a thread of one row: kFew when the time of a single row counts.
constexpr int kFew = 2, kMany = 4;
constexpr int kFewThreads = 1024;
constexpr int kManyThreads = 896;  // so that each may have 72 registers

// One block a row, which it keeps in registers: thread t has the vectors t,
// t + threads, ...  Mean and variance are two sums over those registers.
//
// The parameters come from far away, but depend on no kernel and are asked for
// while the one before still runs: kFew vectors of them wait in registers,
// kMany in the L2 cache.  Loops that load store nothing, so that all their
// loads are on the way at once.
template <class T, int kVectors>
__global__ void __launch_bounds__(kVectors == kFew ? kFewThreads : kManyThreads)
    AddNormKernel(const AddNormArgs a, const float inverse_columns) {
  __shared__ float sums[kWarp], squares[kWarp];
  constexpr bool kHeld = kVectors == kFew;
  const auto each = [&](auto fn) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = kShare * (threadIdx.x + v * blockDim.x);
      if (column < a.columns) fn(v, column);
    }
  };
  Floats x[kVectors];
  Vector<T, kShare> delta[kVectors], bias[kVectors];
  Affine affine[kVectors];

  each([&](int v, int column) {
    if constexpr (kHeld) {
      bias[v] = LoadBias<T>(a, column);
      affine[v] = LoadAffine(a, column);
    } else {
      PrefetchParameters<T>(a, column);
    }
  });
  WaitForPrevious();

  const int64_t row = blockIdx.x;
  float* const x_row = a.x + row * a.x_stride;
  const T* const delta_row =
      static_cast<const T*>(a.delta) + row * a.delta_stride;
  each([&](int v, int column) {
    x[v] = Load<kShare>(x_row + column);
    if (a.delta) delta[v] = Load<kShare>(delta_row + column);
    if (a.delta && !kHeld) bias[v] = LoadBias<T>(a, column);
  });
  AllowNext();

  if (a.delta) {
    each([&](int v, int) {
      for (int j = 0; j < kShare; ++j) {
        x[v].at[j] += ToFloat(delta[v].at[j]) + ToFloat(bias[v].at[j]);
      }
    });
    if (a.place != NormPlace::kAfter) {
      each([&](int v, int column) { Store(x[v], x_row + column); });
    }
  }

  if (a.place != NormPlace::kNone) {
    float sum = 0;
    each([&](int v, int) {
      for (int j = 0; j < kShare; ++j) sum += x[v].at[j];
    });
    const float mean = inverse_columns * BlockReduce(sum, 0.0f, sums, Plus());
    if constexpr (!kHeld) {
      each([&](int v, int column) { affine[v] = LoadAffine(a, column); });
    }
    float square = 0;
    each([&](int v, int) {
      for (int j = 0; j < kShare; ++j) {
        const float centred = x[v].at[j] - mean;
        square += centred * centred;
      }
    });
    square = BlockReduce(square, 0.0f, squares, Plus());
    const float inverse = rsqrtf(inverse_columns * square + kEpsilon);
    each([&](int v, int) {
      for (int j = 0; j < kShare; ++j) {
        x[v].at[j] = (x[v].at[j] - mean) * inverse * affine[v].weight.at[j] +
                     affine[v].bias.at[j];
      }
    });
    if (a.place == NormPlace::kAfter) {
      each([&](int v, int column) { Store(x[v], x_row + column); });
    }
  }
  if (a.out == nullptr) return;
  T* const out_row = static_cast<T*>(a.out) + row * a.out_stride;
  each([&](int v, int column) { StoreRounded(x[v], out_row + column); });
}

template <class T, int kVectors>
cudaError_t LaunchAddNorm(const AddNormArgs& args, cudaStream_t stream) {
  const int64_t threads = CeilDiv(args.columns, kShare * kVectors);
  return Launch(AddNormKernel<T, kVectors>, dim3(args.rows),
                static_cast<int>(CeilDiv(threads, kWarp) * kWarp), stream, args,
                1.0f / static_cast<float>(args.columns));
}

// ---- Gelu -------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads)
    GeluKernel(T* y, int64_t stride, int columns) {
  WaitForPrevious();
  AllowNext();
  const int column = FirstColumn();
  if (column >= columns) return;
  T* const at = y + blockIdx.x * stride + column;
  Vector<T, kColumns> values = Load<kColumns>(at);
  for (int j = 0; j < kColumns; ++j) {
    // A rank's columns need not end with a vector; what is behind them stays.
    if (column + j >= columns) break;
    const float v = ToFloat(values.at[j]);
    FromFloat(0.5f * v * (1 + erff(v * 0.70710678118654752f)), &values.at[j]);
  }
  Store(values, at);
}

__global__ void PrefetchRowsKernel(const char* data, int64_t rows,
                                   int64_t stride_bytes, int bytes) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row < rows) PrefetchBytes(data + row * stride_bytes, bytes);
}

}  // namespace

cudaError_t Embed(const int32_t* tokens, int rows, int first_token,
                  const void* table, int64_t table_rows, int64_t table_stride,
                  int columns, DType dtype, void* out, int64_t out_stride,
                  cudaStream_t stream) {
  return CopyRows(tokens, rows, first_token, table, table_rows, table_stride,
                  columns, dtype, out, out_stride, stream);
}

cudaError_t GatherRows(const void* x, int64_t x_stride, const int32_t* rows_of,
                       int count, int columns, DType dtype, void* out,
                       int64_t out_stride, cudaStream_t stream) {
  return CopyRows(rows_of, count, 0, x, INT64_MAX, x_stride, columns, dtype,
                  out, out_stride, stream);
}

cudaError_t AddPositions(const void* delta, int64_t delta_stride,
                         const int32_t* positions, int rows, const void* table,
                         int64_t table_stride, int columns, DType dtype,
                         float* x, int64_t x_stride, cudaStream_t stream) {
  if (columns % kColumns != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  return DispatchFormat(dtype, [&](auto format) {
    using T = decltype(format);
    return Launch(AddPositionsKernel<T>, GridOfRows(rows, columns), kThreads,
                  stream, static_cast<const T*>(delta), delta_stride, positions,
                  static_cast<const T*>(table), table_stride, columns, x,
                  x_stride);
  });
}

cudaError_t AddNorm(const AddNormArgs& args, cudaStream_t stream) {
  if (args.columns % kColumns != 0 ||
      args.columns > kMany * kShare * kManyThreads) {
    return cudaErrorInvalidValue;
  }
  if (args.rows == 0) return cudaSuccess;
  // Few rows leave the device idle: many threads finish each sooner.
  constexpr int kFewRows = 32;
  const bool few =
      args.rows <= kFewRows && args.columns <= kFew * kShare * kFewThreads;
  return DispatchFormat(args.dtype, [&](auto format) {
    using T = decltype(format);
    return few ? LaunchAddNorm<T, kFew>(args, stream)
               : LaunchAddNorm<T, kMany>(args, stream);
  });
}

cudaError_t Gelu(void* y, int64_t stride, int rows, int columns, DType dtype,
                 cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return DispatchFormat(dtype, [&](auto format) {
    using T = decltype(format);
    return Launch(GeluKernel<T>, GridOfRows(rows, columns), kThreads, stream,
                  static_cast<T*>(y), stride, columns);
  });
}

cudaError_t PrefetchRows(const void* data, int64_t rows, int64_t stride_bytes,
                         int bytes, cudaStream_t stream) {
  constexpr int kThreads = 256;
  PrefetchRowsKernel<<<static_cast<int>(CeilDiv(rows, kThreads)), kThreads, 0,
                       stream>>>(static_cast<const char*>(data), rows,
                                 stride_bytes, bytes);
  return cudaGetLastError();
}

}  // namespace h2o::cuda
