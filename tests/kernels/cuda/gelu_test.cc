// GELU, which is a kernel of its own on GPUs, and the shapes that kernels of
// rows refuse; see tests/kernels/rows_test.cc for the rest.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "base/dtype.h"
#include "kernels/cuda/kernels.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o {
namespace {

constexpr int kPadding = 32;  // columns behind each row, to be left alone

// A matrix of 16-bit numbers, with padding, as bits and as floats.
struct Rows {
  Rows(int rows, int columns, DType dtype, uint64_t seed, float scale)
      : stride(columns + kPadding),
        bits(Narrow(Uniform(int64_t{rows} * stride, seed, scale), dtype)),
        values(Widen(bits, dtype)),
        device(bits) {}

  int64_t stride;
  std::vector<uint16_t> bits;
  std::vector<float> values;
  DeviceArray<uint16_t> device;
};

class Gelu : public ::testing::TestWithParam<std::tuple<int, int, DType>> {
 protected:
  void SetUp() override { H2O_SKIP_WITHOUT_GPU(); }

  int rows() const { return std::get<0>(GetParam()); }
  int columns() const { return std::get<1>(GetParam()); }
  DType dtype() const { return std::get<2>(GetParam()); }
  int64_t stride() const { return columns() + kPadding; }
};

TEST_P(Gelu, IsExact) {
  // Columns that end within a vector, too.
  for (const int width : {columns(), columns() - 3}) {
    const Rows y(rows(), columns(), dtype(), 5, 6);
    CheckCuda(
        cuda::Gelu(y.device.data(), y.stride, rows(), width, dtype(), nullptr));
    const std::vector<uint16_t> bits = y.device.Read();
    const std::vector<float> got = Widen(bits, dtype());
    for (int r = 0; r < rows(); ++r) {
      for (int c = 0; c < stride(); ++c) {
        const int64_t i = r * y.stride + c;
        if (c >= width) {
          ASSERT_EQ(bits[i], y.bits[i]) << r << ", " << c;
          continue;
        }
        const double v = y.values[i];
        const double want = 0.5 * v * (1 + std::erf(v * std::sqrt(0.5)));
        ASSERT_NEAR(got[i], want, std::abs(want) * HalfUlp(dtype()) + 2e-6)
            << r << ", " << c;
      }
    }
  }
}

const auto kShapes =
    ::testing::Combine(::testing::Values(1, 3, 40, 300),
                       ::testing::Values(96, 768, 2560, 7168, 12288),
                       ::testing::Values(DType::kBFloat16, DType::kFloat16));
const auto kShapeName = [](const auto& info) {
  return std::to_string(std::get<0>(info.param)) + "x" +
         std::to_string(std::get<1>(info.param)) +
         std::string(Name(std::get<2>(info.param)));
};
INSTANTIATE_TEST_SUITE_P(Shapes, Gelu, kShapes, kShapeName);

TEST(RowKernelErrors, UnsupportedColumns) {
  H2O_SKIP_WITHOUT_GPU();
  cuda::AddNormArgs args;
  args.rows = 1;
  for (const int columns :
       {100, 7, cuda::kMostNormColumns + cuda::kColumnVector}) {
    args.columns = columns;
    EXPECT_EQ(cuda::AddNorm(args, nullptr), cudaErrorInvalidValue) << columns;
  }
  args.columns = 96;
  args.dtype = DType::kFloat32;
  EXPECT_EQ(cuda::AddNorm(args, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::Embed(nullptr, 1, 0, nullptr, 1, 12, 12, DType::kBFloat16,
                        nullptr, 12, nullptr),
            cudaErrorInvalidValue);
}

TEST(RowKernelErrors, NoRowsAreNoWork) {
  H2O_SKIP_WITHOUT_GPU();
  cuda::AddNormArgs args;
  args.columns = 96;
  EXPECT_EQ(cuda::AddNorm(args, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::Gelu(nullptr, 96, 0, 96, DType::kBFloat16, nullptr),
            cudaSuccess);
}

}  // namespace
}  // namespace h2o
