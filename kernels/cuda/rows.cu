// What lies between the matrix products: rows in, rows out.
#include <cstdint>

#include "base/kv_page.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {
namespace {

constexpr int kColumns = kColumnVector;  // of a vector of 16 bytes
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
    return Launch(CopyRowsKernel<T>, {GridOfRows(count, columns), kThreads},
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
  // A copy ignores the format: a number of 32 bits is copied as two of 16.
  if (dtype == DType::kFloat32) {
    return GatherRows(x, 2 * x_stride, rows_of, count, 2 * columns,
                      DType::kFloat16, out, 2 * out_stride, stream);
  }
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
    return Launch(AddPositionsKernel<T>, {GridOfRows(rows, columns), kThreads},
                  stream, static_cast<const T*>(delta), delta_stride, positions,
                  static_cast<const T*>(table), table_stride, columns, x,
                  x_stride);
  });
}

cudaError_t Gelu(void* y, int64_t stride, int rows, int columns, DType dtype,
                 cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return DispatchFormat(dtype, [&](auto format) {
    using T = decltype(format);
    return Launch(GeluKernel<T>, {GridOfRows(rows, columns), kThreads}, stream,
                  static_cast<T*>(y), stride, columns);
  });
}

}  // namespace h2o::cuda
