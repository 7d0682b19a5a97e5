// What tests of kernels share: arrays on the GPU, poisoned when made, checked
// when moved; numbers of 16 bits; recorded work.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/check.h"
#include "base/dtype.h"
#include "tests/kernels/numbers.h"

namespace h2o {

inline void CheckCuda(cudaError_t error) {
  H2O_CHECK(error == cudaSuccess) << cudaGetErrorString(error);
}

inline bool HaveGpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

// In SetUp or at the head of a test.
#define H2O_SKIP_WITHOUT_GPU() \
  if (!HaveGpu()) GTEST_SKIP() << "this machine has no CUDA device"

// T[size] on the device; all bits set until something is written.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t size) : size_(size) {
    CheckCuda(cudaMalloc(&data_, size * sizeof(T) + 16));
    CheckCuda(cudaMemset(data_, 0xff, size * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    CheckCuda(cudaMemcpy(data_, values.data(), size_ * sizeof(T),
                         cudaMemcpyHostToDevice));
  }
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return data_; }
  int64_t size() const { return size_; }

  // Waits for the device.
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    CheckCuda(cudaDeviceSynchronize());
    CheckCuda(cudaMemcpy(values.data(), data_, size_ * sizeof(T),
                         cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

// Nothing was written behind the columns of an array that was poisoned.
template <class T>
void ExpectPoisonBehind(int64_t columns, int64_t stride,
                        const std::vector<T>& array) {
  for (size_t i = 0; i < array.size(); ++i) {
    if (static_cast<int64_t>(i) % stride < columns) continue;
    const auto* bytes = reinterpret_cast<const uint8_t*>(&array[i]);
    for (size_t b = 0; b < sizeof(T); ++b) {
      ASSERT_EQ(bytes[b], 0xff)
          << "behind row " << i / stride << ", column " << i % stride;
    }
  }
}

// Floats to 16 bits and back.
inline std::vector<uint16_t> Narrow(const std::vector<float>& x, DType dtype) {
  std::vector<uint16_t> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    StoreElement(out.data(), dtype, static_cast<int64_t>(i), x[i]);
  }
  return out;
}
inline std::vector<float> Widen(const std::vector<uint16_t>& x, DType dtype) {
  std::vector<float> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    out[i] = LoadElement(x.data(), dtype, static_cast<int64_t>(i));
  }
  return out;
}

// What `work` enqueues, recorded as a graph and not yet run.
class Recording {
 public:
  explicit Recording(absl::FunctionRef<void(cudaStream_t)> work) {
    CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    CheckCuda(
        cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    work(stream_);
    cudaGraph_t graph = nullptr;
    CheckCuda(cudaStreamEndCapture(stream_, &graph));
    CheckCuda(cudaGraphInstantiate(&ready_, graph, 0));
    CheckCuda(cudaGraphDestroy(graph));
  }
  ~Recording() {
    cudaGraphExecDestroy(ready_);
    cudaStreamDestroy(stream_);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // Behind all that was enqueued anywhere; done on return.
  void Replay() {
    CheckCuda(cudaDeviceSynchronize());
    CheckCuda(cudaGraphLaunch(ready_, stream_));
    CheckCuda(cudaStreamSynchronize(stream_));
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t ready_ = nullptr;
};

}  // namespace h2o
