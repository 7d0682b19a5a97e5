// The backend that a kernel test runs on.  Tests that take it are one source
// and two programs: linked with cpu_test_backend.cc they test the CPU kernels
// (label unit), with cuda/cuda_test_backend.cc those of a GPU (label gpu).
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/backend.h"
#include "tests/kernels/numbers.h"

namespace h2o {

// The ways to run the kernels on this machine: instruction sets of a CPU; one
// of a GPU.
std::vector<std::string> BackendVariants();

// The formats of weights that the kernels have.
std::vector<DType> BackendFormats();

// Shapes of rows of activations: the host, which checks them, has its time.
std::vector<int> BackendRowCounts();
std::vector<int> BackendColumnCounts();

// How many draws of tokens a test can wait for, out of `wanted`.
int AffordableDraws(int wanted);

// For weights of `dtype`, rows of up to 12,288 columns and OPT's vocabulary.
// Null: this machine has no such device.
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

// A matrix on the device of `backend` with columns of padding behind its own,
// and the numbers that it holds.
class TestMatrix {
 public:
  // Filled from `values` [rows, columns], rounded to `dtype`; zero behind.
  TestMatrix(Backend* backend, int rows, int columns, DType dtype,
             const std::vector<float>& values)
      : TestMatrix(backend, rows, columns, dtype) {
    std::vector<std::byte> bytes(rows * stride_ * SizeOf(dtype));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        StoreElement(bytes.data(), dtype, r * stride_ + c,
                     values[r * columns + c]);
      }
    }
    backend->Upload(bytes.data(), bytes.size(), bytes_.data());
    Read();
  }
  // Poison: all bits are set.
  TestMatrix(Backend* backend, int rows, int columns, DType dtype)
      : rows_(rows),
        columns_(columns),
        stride_(AlignedStride(columns) + kRowAlignment),
        dtype_(dtype),
        bytes_(backend, rows * stride_ * SizeOf(dtype)) {}

  Matrix view() const {
    return {bytes_.data(), rows_, columns_, stride_, dtype_};
  }
  StoredMatrix stored() const {
    return {bytes_.data(), FormatOf(dtype_), rows_, columns_, stride_};
  }

  // Fetches the numbers from the device.
  void Read() { host_ = bytes_.Read(); }
  // As of the last Read.
  float At(int64_t r, int64_t c) const {
    return LoadElement(host_.data(), dtype_, r * stride_ + c);
  }
  // Nothing but zeros was written behind the columns, as of the last Read.
  void ExpectPaddingKept() const {
    const int64_t size = SizeOf(dtype_);
    for (int64_t i = 0; i < static_cast<int64_t>(host_.size()); ++i) {
      if (i / size % stride_ < columns_) continue;
      const auto byte = static_cast<int>(host_[i]);
      ASSERT_TRUE(byte == 0xff || byte == 0)
          << "behind row " << i / size / stride_ << ", column "
          << i / size % stride_;
    }
  }
  bool IsPoison() const {
    for (const std::byte b : host_) {
      if (b != std::byte{0xff}) return false;
    }
    return true;
  }

 private:
  int64_t rows_, columns_, stride_;
  DType dtype_;
  OnDevice<std::byte> bytes_;
  std::vector<std::byte> host_;
};

}  // namespace h2o
