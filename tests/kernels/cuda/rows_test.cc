#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "base/dtype.h"
#include "kernels/cuda/kernels.h"
#include "kernels/norm_place.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o {
namespace {

constexpr int kPadding = 32;  // columns behind each row, to be left alone
constexpr float kMark = 12345;

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

class RowKernels
    : public ::testing::TestWithParam<std::tuple<int, int, DType>> {
 protected:
  void SetUp() override { H2O_SKIP_WITHOUT_GPU(); }

  int rows() const { return std::get<0>(GetParam()); }
  int columns() const { return std::get<1>(GetParam()); }
  DType dtype() const { return std::get<2>(GetParam()); }
  int64_t stride() const { return columns() + kPadding; }
};

TEST_P(RowKernels, EmbedTakesRowsAndZeros) {
  constexpr int kTableRows = 50, kFirst = 1000;
  const Rows table(kTableRows, columns(), dtype(), 1, 2);
  std::vector<int32_t> tokens(rows());
  for (int r = 0; r < rows(); ++r) tokens[r] = kFirst - 3 + r * 7 % 56;
  const DeviceArray<int32_t> device_tokens(tokens);
  const DeviceArray<uint16_t> out(rows() * stride());
  CheckCuda(cuda::Embed(device_tokens.data(), rows(), kFirst,
                        table.device.data(), kTableRows, table.stride,
                        columns(), dtype(), out.data(), stride(), nullptr));
  const std::vector<uint16_t> got = out.Read();
  for (int r = 0; r < rows(); ++r) {
    const int row = tokens[r] - kFirst;
    const bool exists = row >= 0 && row < kTableRows;
    for (int c = 0; c < columns(); ++c) {
      const uint16_t want = exists ? table.bits[row * table.stride + c] : 0;
      ASSERT_EQ(got[r * stride() + c], want) << r << ", " << c;
    }
  }
  ExpectPoisonBehind(columns(), stride(), got);
}

TEST_P(RowKernels, GatherRowsCopies) {
  const Rows x(rows(), columns(), dtype(), 2, 2);
  const int count = (rows() + 1) / 2;
  std::vector<int32_t> rows_of(count);
  for (int i = 0; i < count; ++i) rows_of[i] = rows() - 1 - 2 * i;
  const DeviceArray<int32_t> device_rows(rows_of);
  const DeviceArray<uint16_t> out(count * stride());
  CheckCuda(cuda::GatherRows(x.device.data(), x.stride, device_rows.data(),
                             count, columns(), dtype(), out.data(), stride(),
                             nullptr));
  const std::vector<uint16_t> got = out.Read();
  for (int i = 0; i < count; ++i) {
    for (int c = 0; c < columns(); ++c) {
      ASSERT_EQ(got[i * stride() + c], x.bits[rows_of[i] * x.stride + c])
          << i << ", " << c;
    }
  }
  ExpectPoisonBehind(columns(), stride(), got);
}

TEST_P(RowKernels, GatherRowsCopiesFloats) {
  std::vector<float> x(rows() * stride());
  std::iota(x.begin(), x.end(), 0.5f);
  const int count = rows() + 1;  // one of them twice
  std::vector<int32_t> rows_of(count);
  for (int i = 0; i < count; ++i) rows_of[i] = (rows() - 1 + i) % rows();
  const DeviceArray<float> device_x(x);
  const DeviceArray<int32_t> device_rows(rows_of);
  const DeviceArray<float> out(std::vector<float>(count * stride(), kMark));
  CheckCuda(cuda::GatherRows(device_x.data(), stride(), device_rows.data(),
                             count, columns(), DType::kFloat32, out.data(),
                             stride(), nullptr));
  const std::vector<float> got = out.Read();
  for (int i = 0; i < count; ++i) {
    for (int c = 0; c < stride(); ++c) {
      const float want = c < columns() ? x[rows_of[i] * stride() + c] : kMark;
      ASSERT_EQ(got[i * stride() + c], want) << i << ", " << c;
    }
  }
}

TEST_P(RowKernels, AddPositionsAdds) {
  constexpr int kPositions = 60;
  const Rows delta(rows(), columns(), dtype(), 3, 1);
  const Rows table(kPositions, columns(), dtype(), 4, 1);
  std::vector<int32_t> positions(rows());
  for (int r = 0; r < rows(); ++r) positions[r] = r * 11 % (kPositions + 1) - 1;
  const DeviceArray<int32_t> device_positions(positions);
  const DeviceArray<float> x(std::vector<float>(rows() * stride(), kMark));
  CheckCuda(cuda::AddPositions(delta.device.data(), delta.stride,
                               device_positions.data(), rows(),
                               table.device.data(), table.stride, columns(),
                               dtype(), x.data(), stride(), nullptr));
  const std::vector<float> got = x.Read();
  for (int r = 0; r < rows(); ++r) {
    const int position = std::max(positions[r], 0);
    for (int c = 0; c < columns(); ++c) {
      ASSERT_EQ(got[r * stride() + c],
                delta.values[r * delta.stride + c] +
                    table.values[position * table.stride + c])
          << r << ", " << c;
    }
    for (int c = columns(); c < stride(); ++c) {
      ASSERT_EQ(got[r * stride() + c], kMark) << r << ", " << c;
    }
  }
}

TEST_P(RowKernels, GeluIsExact) {
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

// Which of AddNorm's optional arguments are given.
struct Variant {
  NormPlace place = NormPlace::kBefore;
  bool delta = true, bias = true, affine = true, out = true;
  float epsilon = 1e-5f;
};

class AddNorm : public RowKernels {
 protected:
  void Check(const Variant& v);
};

void AddNorm::Check(const Variant& v) {
  const int64_t n = columns();
  // A mean far from zero: one-pass formulas would lose the variance.
  const std::vector<float> before = Uniform(rows() * stride(), 6, 3, 20);
  const Rows delta(rows(), columns(), dtype(), 7, 2);
  const Rows bias(1, columns(), dtype(), 8, 1);
  const std::vector<float> weight = Uniform(n, 9, 1, 1);
  const std::vector<float> norm_bias = Uniform(n, 10, 1);
  const DeviceArray<float> x(before), device_weight(weight),
      device_norm_bias(norm_bias);
  const DeviceArray<uint16_t> out(rows() * stride());

  cuda::AddNormArgs args;
  args.x = x.data();
  args.x_stride = stride();
  args.delta = v.delta ? delta.device.data() : nullptr;
  args.delta_stride = delta.stride;
  args.bias = v.bias ? bias.device.data() : nullptr;
  args.place = v.place;
  args.weight = v.affine ? device_weight.data() : nullptr;
  args.norm_bias = v.affine ? device_norm_bias.data() : nullptr;
  args.epsilon = v.epsilon;
  args.out = v.out ? out.data() : nullptr;
  args.out_stride = stride();
  args.rows = rows();
  args.columns = columns();
  args.dtype = dtype();
  CheckCuda(cuda::AddNorm(args, nullptr));

  const std::vector<float> x_after = x.Read();
  const std::vector<uint16_t> out_bits = out.Read();
  const std::vector<float> got = Widen(out_bits, dtype());
  std::vector<double> sum(n), y(n);
  for (int r = 0; r < rows(); ++r) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < n; ++c) {
      sum[c] = before[r * stride() + c];
      if (v.delta) {
        sum[c] += delta.values[r * delta.stride + c];
        if (v.bias) sum[c] += bias.values[c];
      }
      mean += sum[c] / n;
    }
    for (int64_t c = 0; c < n; ++c) {
      variance += (sum[c] - mean) * (sum[c] - mean) / n;
    }
    for (int64_t c = 0; c < n; ++c) {
      y[c] = (sum[c] - mean) / std::sqrt(variance + v.epsilon);
      if (v.affine) y[c] = y[c] * weight[c] + norm_bias[c];
      if (v.place == NormPlace::kNone) y[c] = sum[c];
      const int64_t i = r * stride() + c;
      const double x_want = v.place == NormPlace::kAfter ? y[c] : sum[c];
      ASSERT_NEAR(x_after[i], x_want, 2e-5) << "x of " << r << ", " << c;
      if (!v.out) continue;
      ASSERT_NEAR(got[i], y[c], std::abs(y[c]) * HalfUlp(dtype()) + 2e-5)
          << "out of " << r << ", " << c;
    }
    for (int64_t i = r * stride() + n; i < (r + 1) * stride(); ++i) {
      ASSERT_EQ(x_after[i], before[i]) << r;
    }
    if (!v.out) {
      for (int64_t c = 0; c < n; ++c)
        ASSERT_EQ(out_bits[r * stride() + c], 0xffff);
    }
    // Not a bit of x changes where nothing is added.
    if (!v.delta && v.place != NormPlace::kAfter) {
      for (int64_t i = r * stride(); i < r * stride() + n; ++i) {
        ASSERT_EQ(x_after[i], before[i]) << r;
      }
    }
  }
  ExpectPoisonBehind(columns(), stride(), out_bits);
}

TEST_P(AddNorm, PreNorm) { Check({NormPlace::kBefore}); }

TEST_P(AddNorm, OtherVariants) {
  // The smaller shapes have them, and the host is slow.
  if (rows() == 300 && columns() > 2560) return;
  for (const NormPlace place :
       {NormPlace::kNone, NormPlace::kBefore, NormPlace::kAfter}) {
    Check({place, true, true, true, true});
    Check({place, true, false, false, true});
    Check({place, false, false, true, true});
    Check({place, false, true, true, true});  // no delta: no bias either
    Check({place, true, true, true, false});
    Check({place, true, true, true, true, 0.5f});
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
INSTANTIATE_TEST_SUITE_P(Shapes, RowKernels, kShapes, kShapeName);
INSTANTIATE_TEST_SUITE_P(Shapes, AddNorm, kShapes, kShapeName);

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
