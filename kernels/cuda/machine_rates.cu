// Measures how fast a GPU reads memory and multiplies matrices.
#include <cublas_v2.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/machine_rates.h"

namespace h2o::cuda {
namespace {

constexpr int64_t kReadBytes = int64_t{8} << 30;
constexpr int kSide = 8192;
constexpr int kRuns = 10;

void Ok(cudaError_t error) {
  H2O_CHECK(error == cudaSuccess) << cudaGetErrorString(error);
}

__global__ void ReadAll(const uint4* data, int64_t count, uint32_t* sink) {
  constexpr int kAtOnce = 8;
  uint32_t sum = 0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x * kAtOnce;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x * kAtOnce + threadIdx.x;
       i + (kAtOnce - 1) * int64_t{blockDim.x} < count; i += step) {
    uint4 v[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      v[k] = __ldcs(data + i + k * int64_t{blockDim.x});
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (sum == 0x12345678u) *sink = sum;  // never, but the compiler cannot know
}

// The median seconds of `run`, which enqueues on `stream`.
template <class Run>
double MedianSeconds(cudaStream_t stream, Run&& run) {
  cudaEvent_t begin, end;
  Ok(cudaEventCreate(&begin));
  Ok(cudaEventCreate(&end));
  std::vector<float> ms(kRuns);
  for (int i = -2; i < kRuns; ++i) {
    Ok(cudaEventRecord(begin, stream));
    run();
    Ok(cudaEventRecord(end, stream));
    Ok(cudaEventSynchronize(end));
    if (i >= 0) Ok(cudaEventElapsedTime(&ms[i], begin, end));
  }
  Ok(cudaEventDestroy(begin));
  Ok(cudaEventDestroy(end));
  std::nth_element(ms.begin(), ms.begin() + kRuns / 2, ms.end());
  return 1e-3 * ms[kRuns / 2];
}

}  // namespace

double MeasureReadRate() {
  char* data = nullptr;
  Ok(cudaMalloc(&data, kReadBytes + 16));
  Ok(FillDummy(1, 2, 1.0f, 0, kReadBytes / 4096, 0, 1024, 1024,
               DType::kFloat32, data, 1024, nullptr));
  int device = 0, processors = 0;
  Ok(cudaGetDevice(&device));
  Ok(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount,
                            device));
  const double seconds = MedianSeconds(nullptr, [&] {
    ReadAll<<<processors * 8, 256>>>(reinterpret_cast<const uint4*>(data),
                                     kReadBytes / 16,
                                     reinterpret_cast<uint32_t*>(data));
    Ok(cudaGetLastError());
  });
  Ok(cudaFree(data));
  return kReadBytes / seconds;
}

double MeasureMatrixRate() {
  constexpr int64_t kElements = int64_t{kSide} * kSide;
  char* data = nullptr;
  Ok(cudaMalloc(&data, 3 * kElements * 2));
  for (int i = 0; i < 2; ++i) {
    Ok(FillDummy(3, i, 1.0f, 0, kSide, 0, kSide, kSide, DType::kBFloat16,
                 data + i * kElements * 2, kSide, nullptr));
  }
  cublasHandle_t handle = nullptr;
  H2O_CHECK(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
  const float one = 1, zero = 0;
  const double seconds = MedianSeconds(nullptr, [&] {
    const cublasStatus_t status = cublasGemmEx(
        handle, CUBLAS_OP_T, CUBLAS_OP_N, kSide, kSide, kSide, &one, data,
        CUDA_R_16BF, kSide, data + kElements * 2, CUDA_R_16BF, kSide, &zero,
        data + 2 * kElements * 2, CUDA_R_16BF, kSide, CUBLAS_COMPUTE_32F,
        CUBLAS_GEMM_DEFAULT);
    H2O_CHECK(status == CUBLAS_STATUS_SUCCESS) << status;
  });
  cublasDestroy(handle);
  Ok(cudaFree(data));
  return 2.0 * kSide * kSide * kSide / seconds;
}

}  // namespace h2o::cuda
