// Kernels by which ranks that share one GPU meet, copy and sum.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "tests/worker/one_gpu_sums.h"

namespace h2o {
namespace {

constexpr unsigned long long kPatience = 30'000'000'000;  // ns

__device__ unsigned long long Now() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

__global__ void MeetKernel(MeetingPoint* point, uint32_t* round, int ranks) {
  if (point->open == 0) return;
  const uint32_t target = ++*round * ranks;
  __threadfence();  // what this rank wrote before
  atomicAdd(&point->arrivals, 1);
  const unsigned long long begun = Now();
  // The counter wraps.
  while (static_cast<int32_t>(atomicAdd(&point->arrivals, 0) - target) < 0) {
    if (Now() - begun > kPatience) __trap();
    __nanosleep(200);
  }
  __threadfence();
}

constexpr int kThreads = 256;
int BlocksFor(int64_t count) {
  return static_cast<int>(std::clamp<int64_t>(count / kThreads, 1, 64));
}
__device__ int64_t First() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ int64_t Stride() { return int64_t{gridDim.x} * blockDim.x; }

__global__ void CopyKernel(const std::byte* from, int64_t bytes,
                           std::byte* to) {
  for (int64_t i = First(); i < bytes; i += Stride()) to[i] = from[i];
}

template <class T>
__global__ void SumKernel(const std::byte* arrays, int64_t bytes_apart,
                          int ranks, int64_t count, T* out) {
  for (int64_t i = First(); i < count; i += Stride()) {
    float sum = 0;
    for (int r = 0; r < ranks; ++r) {
      const auto* numbers =
          reinterpret_cast<const T*>(arrays + r * bytes_apart);
      sum += static_cast<float>(numbers[i]);
    }
    out[i] = static_cast<T>(sum);
  }
}

template <class T>
cudaError_t Sum(const std::byte* arrays, int64_t bytes_apart, int ranks,
                int64_t count, void* out, cudaStream_t stream) {
  SumKernel<<<BlocksFor(count), kThreads, 0, stream>>>(
      arrays, bytes_apart, ranks, count, static_cast<T*>(out));
  return cudaGetLastError();
}

}  // namespace

cudaError_t Meet(MeetingPoint* point, uint32_t* round, int ranks,
                 cudaStream_t stream) {
  MeetKernel<<<1, 1, 0, stream>>>(point, round, ranks);
  return cudaGetLastError();
}

cudaError_t Copy(const void* from, int64_t bytes, void* to,
                 cudaStream_t stream) {
  CopyKernel<<<BlocksFor(bytes), kThreads, 0, stream>>>(
      static_cast<const std::byte*>(from), bytes, static_cast<std::byte*>(to));
  return cudaGetLastError();
}

cudaError_t SumRanks(const std::byte* arrays, int64_t bytes_apart, int ranks,
                     int64_t count, DType dtype, void* out,
                     cudaStream_t stream) {
  switch (dtype) {
    case DType::kFloat32:
      return Sum<float>(arrays, bytes_apart, ranks, count, out, stream);
    case DType::kBFloat16:
      return Sum<__nv_bfloat16>(arrays, bytes_apart, ranks, count, out, stream);
    case DType::kFloat16:
      return Sum<__half>(arrays, bytes_apart, ranks, count, out, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace h2o
