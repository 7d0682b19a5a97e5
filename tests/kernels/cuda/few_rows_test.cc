#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o::cuda {
namespace {

struct Case {
  int outputs, inputs;
  bool bias, relu, float_outputs;
};

class FewRowsTest : public ::testing::TestWithParam<std::tuple<int, DType>> {};

void Check(const Case& c, int rows, DType dtype) {
  SCOPED_TRACE(::testing::Message()
               << rows << " x " << c.inputs << " -> " << c.outputs);
  const int64_t stride = CeilDiv(c.inputs, 32) * 32 + 32;
  const int64_t y_stride = c.outputs + 5;
  std::mt19937 random(c.outputs + c.inputs + rows);
  std::normal_distribution<float> normal;
  const auto fill = [&](int64_t size, float scale) {
    std::vector<float> x(size);
    for (float& v : x) v = scale * normal(random);
    return Narrow(x, dtype);
  };
  const std::vector<uint16_t> w = fill(c.outputs * stride, 1);
  const std::vector<uint16_t> x = fill(rows * stride, 1);
  const std::vector<uint16_t> bias = fill(c.outputs, 4);
  const DeviceArray<uint16_t> weights(w), inputs(x), biases(bias);
  DeviceArray<float> wide(rows * y_stride);
  DeviceArray<uint16_t> narrow(rows * y_stride);
  FewRowsArgs args;
  args.x = inputs.data();
  args.x_stride = stride;
  args.weights = weights.data();
  args.weight_stride = stride;
  args.bias = c.bias ? biases.data() : nullptr;
  args.y = c.float_outputs ? static_cast<void*>(wide.data()) : narrow.data();
  args.y_stride = y_stride;
  args.rows = rows;
  args.outputs = c.outputs;
  args.inputs = c.inputs;
  args.relu = c.relu;
  args.float_outputs = c.float_outputs;
  args.dtype = dtype;
  // Twice: the ring's barriers start anew.
  CheckCuda(FewRows(args, nullptr));
  CheckCuda(FewRows(args, nullptr));
  const std::vector<float> got =
      c.float_outputs ? wide.Read() : Widen(narrow.Read(), dtype);
  const std::vector<float> fw = Widen(w, dtype), fx = Widen(x, dtype),
                           fb = Widen(bias, dtype);
  const double rounding =
      c.float_outputs ? 0 : (dtype == DType::kFloat16 ? 0x1p-11 : 0x1p-8);
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < c.outputs; ++n) {
      double sum = c.bias ? fb[n] : 0;
      for (int k = 0; k < c.inputs; ++k) {
        sum += double{fw[n * stride + k]} * fx[r * stride + k];
      }
      if (c.relu) sum = std::max(sum, 0.0);
      ASSERT_NEAR(got[r * y_stride + n], sum,
                  rounding * std::abs(sum) + 1e-6 * c.inputs)
          << "row " << r << " output " << n;
    }
    for (int64_t n = c.outputs; n < y_stride; ++n) {
      ASSERT_TRUE(std::isnan(got[r * y_stride + n])) << "written past the end";
    }
  }
}

TEST_P(FewRowsTest, EqualsFloat64) {
  H2O_SKIP_WITHOUT_GPU();
  const auto [rows, dtype] = GetParam();
  if (!FewRowsSupported(rows)) GTEST_SKIP() << "an older GPU";
  for (const Case& c : {Case{96, 96, true, false, false},
                        {1, 32, false, false, true},
                        {131, 1024, true, true, false},
                        {133, 1056, false, false, false},
                        {2000, 7168, true, true, false},
                        {1100, 28672, false, false, false},
                        {5000, 768, false, false, true}}) {
    Check(c, rows, dtype);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(All, FewRowsTest,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4),
                                            ::testing::Values(DType::kBFloat16,
                                                              DType::kFloat16)),
                         [](const auto& info) {
                           return std::string(Name(std::get<1>(info.param))) +
                                  std::to_string(std::get<0>(info.param));
                         });

}  // namespace
}  // namespace h2o::cuda
