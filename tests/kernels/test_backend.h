// The backend that a kernel test runs on.  Tests that take it are one source
// and two programs: linked with cpu_test_backend.cc they test the CPU kernels
// (label unit), with cuda/cuda_test_backend.cc those of a GPU (label gpu).
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/backend.h"

namespace h2o {

// The ways to run the kernels on this machine: instruction sets of a CPU; one
// of a GPU.
std::vector<std::string> BackendVariants();

// What the kernels compute in: formats().activations and weights.
std::vector<DType> BackendFormats();

// How many draws of tokens a test can wait for, out of `wanted`.
int AffordableDraws(int wanted);

// Fit for rows of up to 12,288 columns and for OPT's vocabulary.  Null: this
// machine has no such device.
std::unique_ptr<Backend> NewTestBackend(const std::string& variant,
                                        DType dtype);

inline std::string VariantName(const ::testing::TestParamInfo<std::string>& p) {
  return p.param;
}

// A suite over BackendVariants(), skipped where the machine has no device.
class BackendTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    backend_ = NewTestBackend(GetParam(), BackendFormats()[0]);
    if (backend_ == nullptr) GTEST_SKIP() << "this machine has no such device";
  }
  std::unique_ptr<Backend> backend_;
};

// T[size] on the device of `backend`.
template <class T>
class OnDevice {
 public:
  // All bits are set until something is written.
  OnDevice(Backend* backend, int64_t size) : backend_(backend), size_(size) {
    auto buffer = backend->Allocate(size * sizeof(T) + 16);
    H2O_CHECK(buffer.ok()) << buffer.status();
    buffer_ = *std::move(buffer);
    const std::vector<uint8_t> poison(size * sizeof(T), 0xff);
    backend->Upload(poison.data(), poison.size(), buffer_.data());
  }
  OnDevice(Backend* backend, const std::vector<T>& values)
      : OnDevice(backend, static_cast<int64_t>(values.size())) {
    backend->Upload(values.data(), size_ * sizeof(T), buffer_.data());
  }

  T* data() const { return buffer_.As<T>(); }

  // Waits for the device.
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    backend_->Download(data(), size_ * sizeof(T), values.data());
    const absl::Status done = backend_->Synchronize();
    H2O_CHECK(done.ok()) << done;
    return values;
  }

 private:
  Backend* backend_;
  int64_t size_;
  Buffer buffer_;
};

inline std::vector<float> NormalNumbers(int64_t size, uint64_t seed,
                                        float deviation) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(size);
  for (float& v : x) v = deviation * normal(random);
  return x;
}

}  // namespace h2o
