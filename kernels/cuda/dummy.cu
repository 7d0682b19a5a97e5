// Random weights, the same on every machine and for every number of ranks.
#include <algorithm>
#include <cstdint>

#include "base/dummy_codes.h"
#include "base/kv_page.h"
#include "base/sampling.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 4;  // of one call of CounterRandom

template <class T>
__device__ Vector<T, kLanes> DummyValues(uint64_t seed, uint64_t call,
                                         uint64_t name_hash, float scale) {
  const auto random = CounterRandom(seed, call, name_hash);
  Vector<T, kLanes> values;
  for (int i = 0; i < kLanes; ++i) {
    const float lane = static_cast<float>(static_cast<int32_t>(random[i]));
    FromFloat(lane * 0x1.0p-31f * scale, &values.at[i]);
  }
  return values;
}

// A thread makes the elements of one call at a time.  `first` is the number of
// the first element, in the whole tensor; so a row may begin within a call.
template <class T>
__global__ void __launch_bounds__(kThreads)
    FillDummyKernel(uint64_t seed, uint64_t name_hash, float scale,
                    int64_t first, int64_t rows, int64_t columns,
                    int64_t full_columns, T* out, int64_t stride) {
  WaitForPrevious();
  AllowNext();
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    const int64_t begin = first + r * full_columns, end = begin + columns;
    const bool aligned = begin % kLanes == 0;
    for (int64_t call = begin / kLanes + blockIdx.x * kThreads + threadIdx.x;
         call * kLanes < end; call += int64_t{gridDim.x} * kThreads) {
      const auto values = DummyValues<T>(seed, call, name_hash, scale);
      const int64_t column = call * kLanes - begin;
      T* const to = out + r * stride + column;
      if (aligned && column + kLanes <= columns) {
        Store(values, to);
        continue;
      }
      for (int i = 0; i < kLanes; ++i) {
        const int64_t c = column + i;
        if (c >= 0 && c < columns) to[i] = values.at[i];
      }
    }
  }
}

// A thread makes 16 bytes of codes at a time, those of one call of
// CounterRandom.  REQUIRES: rows begin and end with a call's first code.
__global__ void __launch_bounds__(kThreads)
    FillCodesKernel(uint64_t seed, uint64_t name_hash, WeightFormat format,
                    int64_t first_call, int64_t rows, int64_t calls,
                    int64_t full_calls, std::byte* out, int64_t row_bytes) {
  WaitForPrevious();
  AllowNext();
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    for (int64_t c = blockIdx.x * kThreads + threadIdx.x; c < calls;
         c += int64_t{gridDim.x} * kThreads) {
      const auto random =
          CounterRandom(seed, first_call + r * full_calls + c, name_hash);
      uint4 codes;
      codes.x = CodesOfBits(format, random[0]);
      codes.y = CodesOfBits(format, random[1]);
      codes.z = CodesOfBits(format, random[2]);
      codes.w = CodesOfBits(format, random[3]);
      *reinterpret_cast<uint4*>(out + r * row_bytes + 16 * c) = codes;
    }
  }
}

// The same for any rows: a thread makes a byte at a time.
__global__ void __launch_bounds__(kThreads)
    FillOddCodesKernel(uint64_t seed, uint64_t name_hash, WeightFormat format,
                       int64_t first, int64_t rows, int64_t columns,
                       int64_t full_columns, std::byte* out,
                       int64_t row_bytes) {
  WaitForPrevious();
  AllowNext();
  const int bits = BitsOf(format), of_word = 32 / bits, of_byte = 8 / bits;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    for (int64_t c = (blockIdx.x * kThreads + threadIdx.x) * of_byte;
         c < columns; c += int64_t{gridDim.x} * kThreads * of_byte) {
      uint32_t byte = 0;
      for (int k = 0; k < of_byte && c + k < columns; ++k) {
        const int64_t i = first + r * full_columns + c + k;
        const uint32_t word = DummyWord(format, seed, name_hash, i / of_word);
        const uint32_t code = word >> (i % of_word * bits) & ((1u << bits) - 1);
        byte |= code << (k * bits);
      }
      out[r * row_bytes + c / of_byte] = static_cast<std::byte>(byte);
    }
  }
}

// Enough blocks to fill any device; the rest is the kernels' own loops.
dim3 GridFor(int64_t rows, int64_t calls) {
  return dim3(
      static_cast<unsigned>(std::min<int64_t>(CeilDiv(calls, kThreads), 1024)),
      static_cast<unsigned>(std::min<int64_t>(rows, 2048)));
}

template <class T>
cudaError_t Fill(uint64_t seed, uint64_t name_hash, float scale, int64_t first,
                 int64_t rows, int64_t columns, int64_t full_columns, void* out,
                 int64_t stride, cudaStream_t stream) {
  const dim3 grid = GridFor(rows, CeilDiv(columns, kLanes));
  return Launch(FillDummyKernel<T>, {grid, kThreads}, stream, seed, name_hash,
                scale, first, rows, columns, full_columns, static_cast<T*>(out),
                stride);
}

}  // namespace

cudaError_t FillDummy(uint64_t seed, uint64_t name_hash, float scale,
                      int64_t row_begin, int64_t rows, int64_t column_begin,
                      int64_t columns, int64_t full_columns, DType dtype,
                      void* out, int64_t stride, cudaStream_t stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  const int64_t first = row_begin * full_columns + column_begin;
  const auto fill = [&](auto format) {
    return Fill<decltype(format)>(seed, name_hash, scale, first, rows, columns,
                                  full_columns, out, stride, stream);
  };
  return dtype == DType::kFloat32 ? fill(float()) : DispatchFormat(dtype, fill);
}

cudaError_t FillDummyCodes(uint64_t seed, uint64_t name_hash,
                           WeightFormat format, int64_t row_begin, int64_t rows,
                           int64_t column_begin, int64_t columns,
                           int64_t full_columns, void* out, int64_t row_bytes,
                           cudaStream_t stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  const int64_t of_call = 128 / BitsOf(format);
  if (column_begin % of_call != 0 || columns % of_call != 0 ||
      full_columns % of_call != 0) {
    return Launch(FillOddCodesKernel, {GridFor(rows, columns), kThreads},
                  stream, seed, name_hash, format,
                  row_begin * full_columns + column_begin, rows, columns,
                  full_columns, static_cast<std::byte*>(out), row_bytes);
  }
  const int64_t calls = columns / of_call, full_calls = full_columns / of_call;
  return Launch(FillCodesKernel, {GridFor(rows, calls), kThreads}, stream, seed,
                name_hash, format,
                row_begin * full_calls + column_begin / of_call, rows, calls,
                full_calls, static_cast<std::byte*>(out), row_bytes);
}

}  // namespace h2o::cuda
