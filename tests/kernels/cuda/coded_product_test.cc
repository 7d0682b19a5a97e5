// Linear layers with weights of codes on the GPU against float64 of what the
// codes stand for, over poisoned memory.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/dtype.h"
#include "base/fp8_rows.h"
#include "base/weight_codes.h"
#include "kernels/backend.h"
#include "kernels/cuda/linear.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o::cuda {
namespace {

// Random weights as codes, arranged; memory behind them is poisoned.
class CodedLayer {
 public:
  CodedLayer(int64_t outputs, int64_t inputs, WeightCoding coding,
             LinearProducts* products)
      : decoded(outputs * inputs),
        shape_(Shape(outputs, inputs, coding)),
        codes_(shape_.bytes()),
        scales_(shape_.scale_bytes()) {
    std::vector<std::byte> codes(codes_.size()), scales(scales_.size());
    std::mt19937 random(static_cast<unsigned>(outputs + inputs));
    std::normal_distribution<float> normal(0, 0.05f);
    std::vector<float> row(inputs);
    for (int64_t n = 0; n < outputs; ++n) {
      for (float& w : row) w = normal(random);
      Encode(row, n, &codes, &scales);
    }
    Upload(codes, codes_);
    Upload(scales, scales_);
    const absl::Status status =
        products->Arrange(shape_, codes_.data(), scales_.data(), nullptr);
    H2O_CHECK(status.ok()) << status;
  }

  StoredMatrix weight() const {
    StoredMatrix w = shape_;
    w.data = codes_.data();
    w.scales = scales_.data();
    return w;
  }

  std::vector<float> decoded;

 private:
  static StoredMatrix Shape(int64_t outputs, int64_t inputs,
                            WeightCoding coding) {
    StoredMatrix m = {nullptr, coding.format, outputs, inputs,
                      WeightStride(coding.format, inputs)};
    m.group = coding.group;
    return m;
  }
  static void Upload(const std::vector<std::byte>& from,
                     const DeviceArray<std::byte>& to) {
    CheckCuda(cudaMemcpy(to.data(), from.data(), from.size(),
                         cudaMemcpyHostToDevice));
  }

  void Encode(const std::vector<float>& row, int64_t n,
              std::vector<std::byte>* codes, std::vector<std::byte>* scales) {
    std::byte* const to = codes->data() + n * shape_.row_bytes();
    const auto back =
        absl::MakeSpan(decoded).subspan(n * row.size(), row.size());
    if (shape_.format != WeightFormat::kInt4) {
      float most = 0;
      for (const float w : row) most = std::max(most, std::fabs(w));
      const float scale = ScaleOf(shape_.format, most);
      reinterpret_cast<float*>(scales->data())[n] = scale;
      EncodeRow(shape_.format, row, scale, to);
      return DecodeRow(shape_.format, to, scale, back);
    }
    auto* const groups =
        reinterpret_cast<GroupScale*>(scales->data()) + n * shape_.groups();
    for (size_t i = 0; i < row.size(); i += shape_.group) {
      groups[i / shape_.group] =
          ScaleOfGroup(absl::MakeSpan(row).subspan(i, shape_.group));
    }
    EncodeInt4Row(row, shape_.group, groups, to);
    DecodeInt4Row(to, shape_.group, groups, back);
  }

  StoredMatrix shape_;
  DeviceArray<std::byte> codes_, scales_;
};

constexpr WeightCoding kCodings[] = {{WeightFormat::kFp8},
                                     {WeightFormat::kInt8},
                                     {WeightFormat::kInt4, 64},
                                     {WeightFormat::kInt4, 128}};

// y of a product over poison, padding and all.
std::vector<uint16_t> Multiply(LinearProducts* products,
                               const CodedLayer& layer,
                               const std::vector<float>& x, int64_t rows,
                               const std::vector<uint16_t>& bias, bool relu,
                               DType dtype) {
  const StoredMatrix weight = layer.weight();
  const int64_t x_stride = AlignedStride(weight.columns);
  const DeviceArray<uint16_t> device_x(Narrow(x, dtype)), device_bias(bias);
  const DeviceArray<uint16_t> y(rows * AlignedStride(weight.rows));
  const absl::Status status = products->Run(
      {device_x.data(), rows, weight.columns, x_stride, dtype}, weight,
      device_bias.data(), relu,
      {y.data(), rows, weight.rows, AlignedStride(weight.rows), dtype},
      nullptr);
  EXPECT_TRUE(status.ok()) << status;
  return y.Read();
}

class CodedProduct : public ::testing::TestWithParam<std::tuple<int, DType>> {
 protected:
  void SetUp() override {
    H2O_SKIP_WITHOUT_GPU();
    products_ = LinearProducts::Create("", false).value();
    if (!products_->takes_codes()) GTEST_SKIP() << "this GPU takes no codes";
  }
  WeightCoding coding() const { return kCodings[std::get<0>(GetParam())]; }
  DType dtype() const { return std::get<1>(GetParam()); }

  // Codes of int4 are rounded to 16 bits, with few rows x is.
  void RunAndCheck(int64_t rows, int64_t outputs, int64_t inputs) {
    SCOPED_TRACE(::testing::Message()
                 << rows << " x " << outputs << " x " << inputs);
    const CodedLayer layer(outputs, inputs, coding(), products_.get());
    const int64_t x_stride = AlignedStride(inputs);
    std::vector<float> x = Uniform(rows * x_stride, 3, 1);
    for (int64_t i = 0; i < rows * x_stride; ++i) {
      if (i % x_stride >= inputs) x[i] = 0;
    }
    ExpectFloat64(layer, x, rows, Narrow(Uniform(outputs, 4, 1), dtype()),
                  true);
  }

  // The product of x, after rounding to dtype(), equals that of what the codes
  // stand for.
  void ExpectFloat64(const CodedLayer& layer, const std::vector<float>& in,
                     int64_t rows, const std::vector<uint16_t>& bias,
                     bool relu) {
    const int64_t outputs = layer.weight().rows;
    const int64_t inputs = layer.weight().columns;
    const int64_t x_stride = AlignedStride(inputs);
    const std::vector<float> x = Widen(Narrow(in, dtype()), dtype());
    const std::vector<uint16_t> y =
        Multiply(products_.get(), layer, x, rows, bias, relu, dtype());
    const std::vector<float> wide_bias = Widen(bias, dtype());
    const std::vector<float> off = RoundingOf(x, x_stride, rows);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t n = 0; n < outputs; ++n) {
        double want = wide_bias[n], squares = 0;
        for (int64_t k = 0; k < inputs; ++k) {
          const double weight = layer.decoded[n * inputs + k];
          const double term = x[r * x_stride + k] * weight;
          const double rounding = off[r * x_stride + k] * weight;
          want += term;
          squares += term * term + rounding * rounding;
        }
        if (relu) want = std::max(want, 0.0);
        // Each weight is off by half a unit at most; such errors add up as
        // random ones do.
        ASSERT_NEAR(
            LoadElement(y.data(), dtype(), r * AlignedStride(outputs) + n),
            want,
            std::abs(want) * HalfUlp(dtype()) +
                6 * HalfUlp(dtype()) * std::sqrt(squares) + 1e-5)
            << "row " << r << ", output " << n;
      }
    }
    ExpectPoisonBehind(outputs, AlignedStride(outputs), y);
  }

  // How far x is off, in units of HalfUlp, where it becomes whole numbers.
  std::vector<float> RoundingOf(const std::vector<float>& x, int64_t stride,
                                int64_t rows) const {
    std::vector<float> off(x.size(), 0.0f);
    if (coding().format != WeightFormat::kInt4 || rows > kMostWholeRows) {
      return off;
    }
    for (int64_t first = 0; first < std::ssize(x); first += coding().group) {
      const int64_t row_end = (first / stride + 1) * stride;
      const int64_t end = std::min(first + coding().group, row_end);
      float most = 0;
      for (int64_t i = first; i < end; ++i) {
        most = std::max(most, std::abs(x[i]));
      }
      const double half_unit = most / kMostWholeNumber / 2;
      std::fill(off.begin() + first, off.begin() + end,
                static_cast<float>(half_unit / HalfUlp(dtype())));
    }
    return off;
  }

  std::unique_ptr<LinearProducts> products_;
};

TEST_P(CodedProduct, EqualsFloat64OfTheCodes) {
  for (const int64_t rows :
       {1, 5, 8, 9, 16, 17, 33, 64, 65, 96, 97, 130, 193, 257}) {
    RunAndCheck(rows, 384, 384);
  }
  for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{64, 128},
                                        {8, 96},
                                        {200, 420},
                                        {576, 192},
                                        {1152, 384},
                                        {384, 1536},
                                        {128, 4096},
                                        {3000, 256}}) {
    for (const int64_t rows : {3, 12, 40, 100, 150}) {
      RunAndCheck(rows, outputs, inputs);
    }
  }
}

TEST_P(CodedProduct, GivesTheSameBitsEveryTime) {
  const CodedLayer layer(1152, 2048, coding(), products_.get());
  const std::vector<float> x = Uniform(24 * 2048, 3, 1);
  const std::vector<uint16_t> bias(1152, 0);
  const auto first =
      Multiply(products_.get(), layer, x, 24, bias, false, dtype());
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(Multiply(products_.get(), layer, x, 24, bias, false, dtype()),
              first);
  }
}

// In groups of inputs of very different magnitudes; a row keeps to itself, and
// what is not finite stays so.
TEST_P(CodedProduct, NumbersThatAreNotFiniteReachTheirRowAlone) {
  constexpr int64_t kOutputs = 256, kInputs = 512;
  const CodedLayer layer(kOutputs, kInputs, coding(), products_.get());
  const std::vector<uint16_t> bias(kOutputs, 0);
  for (const int64_t rows : {3, 12, 20, 200}) {
    std::vector<float> x = Uniform(rows * kInputs, 3, 1);
    const auto clean =
        Multiply(products_.get(), layer, x, rows, bias, false, dtype());
    x[kInputs + 130] = std::numeric_limits<float>::infinity();
    x[2 * kInputs + 500] = std::numeric_limits<float>::quiet_NaN();
    const auto y =
        Multiply(products_.get(), layer, x, rows, bias, false, dtype());
    const int64_t stride = AlignedStride(kOutputs);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t n = 0; n < kOutputs; ++n) {
        const int64_t i = r * stride + n;
        if (r == 1 || r == 2) {
          EXPECT_FALSE(std::isfinite(LoadElement(y.data(), dtype(), i)))
              << rows << " rows, row " << r << ", output " << n;
        } else {
          ASSERT_EQ(y[i], clean[i]) << rows << " rows, row " << r;
        }
      }
    }
  }
}

// A group with a number far above the others, and one of tiny numbers.
TEST_P(CodedProduct, EqualsFloat64WithNumbersFarApart) {
  constexpr int64_t kOutputs = 256, kInputs = 512;
  const CodedLayer layer(kOutputs, kInputs, coding(), products_.get());
  for (const int64_t rows : {1, 16}) {
    std::vector<float> x = Uniform(rows * kInputs, 3, 1);
    for (int64_t r = 0; r < rows; ++r) {
      x[r * kInputs + 7 * r] = 100;
      for (int64_t i = 128; i < 256; ++i) x[r * kInputs + i] *= 1e-4f;
      for (int64_t i = 256; i < 384; ++i) x[r * kInputs + i] = 0;
    }
    ExpectFloat64(layer, x, rows, std::vector<uint16_t>(kOutputs, 0), false);
  }
}

// ---- inputs of fp8 ----------------------------------------------------------

// What row `row` of codes stands for on the host.
std::vector<float> RoundedRow(absl::Span<const float> row) {
  float most = 0;
  for (const float x : row) most = std::max(most, std::fabs(x));
  const Fp8RowScale scale = Fp8ScaleOf(std::bit_cast<uint32_t>(most));
  std::vector<float> rounded;
  for (const float x : row) {
    rounded.push_back(FromFp8(ToFp8(x * scale.inverse)) * scale.scale);
  }
  return rounded;
}

class Fp8Product : public ::testing::TestWithParam<DType> {
 protected:
  static constexpr int64_t kMostRows = 300, kMostColumns = 28672;

  void SetUp() override {
    H2O_SKIP_WITHOUT_GPU();
    products_ =
        LinearProducts::Create("", false, {kMostRows, kMostColumns}).value();
    if (!products_->takes_codes()) GTEST_SKIP() << "this GPU takes no codes";
  }
  DType dtype() const { return GetParam(); }

  // Rows of other scales each, zero behind the inputs.
  std::vector<float> RandomRows(int64_t rows, int64_t inputs) const {
    const int64_t stride = AlignedStride(inputs);
    std::vector<float> x = Uniform(rows * stride, 3, 1);
    for (int64_t i = 0; i < rows * stride; ++i) {
      x[i] = i % stride < inputs
                 ? std::ldexp(x[i], static_cast<int>(i / stride % 12) - 6)
                 : 0;
    }
    return Widen(Narrow(x, dtype()), dtype());
  }

  void RunAndCheck(int64_t rows, int64_t outputs, int64_t inputs, bool relu) {
    SCOPED_TRACE(::testing::Message()
                 << rows << " x " << outputs << " x " << inputs);
    const CodedLayer layer(outputs, inputs, {WeightFormat::kFp8},
                           products_.get());
    const int64_t x_stride = AlignedStride(inputs);
    const std::vector<float> x = RandomRows(rows, inputs);
    const std::vector<uint16_t> bias = Narrow(Uniform(outputs, 4, 1), dtype());
    const std::vector<uint16_t> y =
        Multiply(products_.get(), layer, x, rows, bias, relu, dtype());
    const std::vector<float> wide_bias = Widen(bias, dtype());
    for (int64_t r = 0; r<rows; r += rows> 20 ? 7 : 1) {
      const std::vector<float> row =
          RoundedRow(absl::MakeSpan(x).subspan(r * x_stride, inputs));
      for (int64_t n = 0; n < outputs; ++n) {
        double want = wide_bias[n], squares = 0;
        for (int64_t k = 0; k < inputs; ++k) {
          const double term = double{row[k]} * layer.decoded[n * inputs + k];
          want += term;
          squares += term * term;
        }
        if (relu) want = std::max(want, 0.0);
        // The tensor cores keep some 14 bits of a sum of 128 terms.
        ASSERT_NEAR(
            LoadElement(y.data(), dtype(), r * AlignedStride(outputs) + n),
            want,
            std::abs(want) * 2 * HalfUlp(dtype()) + 2e-3 * std::sqrt(squares) +
                1e-5)
            << "row " << r << ", output " << n;
      }
    }
    ExpectPoisonBehind(outputs, AlignedStride(outputs), y);
  }

  std::unique_ptr<LinearProducts> products_;
};

TEST_P(Fp8Product, EqualsFloat64OfTheCodes) {
  for (const int64_t rows : {1, 2, 5, 16, 17, 64, 97, 130, 256, 300}) {
    RunAndCheck(rows, 384, 384, rows % 2 == 0);
  }
  for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{64, 128},
                                        {16, 96},
                                        {208, 420},
                                        {1152, 384},
                                        {384, 1536},
                                        {128, 4096},
                                        {48, 28672},
                                        {9008, 256}}) {
    for (const int64_t rows : {1, 40, 100}) {
      RunAndCheck(rows, outputs, inputs, false);
    }
  }
}

// Whatever kernel cuBLASLt takes, and whatever its ReLU makes of NaN.
TEST_P(Fp8Product, RowsThatAreNotFiniteStayNaNAndAlone) {
  constexpr int64_t kInputs = 416;
  for (const int64_t outputs : {16, 384, 4096}) {
    for (const int64_t rows : {3, 64, 260}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << outputs);
      const int64_t stride = AlignedStride(outputs);
      const CodedLayer layer(outputs, kInputs, {WeightFormat::kFp8},
                             products_.get());
      std::vector<float> x = RandomRows(rows, kInputs);
      std::fill_n(&x[2 * kInputs], kInputs, 0);
      const std::vector<uint16_t> bias =
          Narrow(Uniform(outputs, 4, 1), dtype());
      for (const bool relu : {false, true}) {
        const auto run = [&] {
          return Multiply(products_.get(), layer, x, rows, bias, relu, dtype());
        };
        x[kInputs + 77] = 1;
        const std::vector<uint16_t> finite = run();
        for (const float odd : {std::numeric_limits<float>::quiet_NaN(),
                                -std::numeric_limits<float>::infinity()}) {
          x[kInputs + 77] = odd;
          const std::vector<uint16_t> y = run();
          for (int64_t i = 0; i < rows * stride; ++i) {
            if (i / stride != 1) {
              ASSERT_EQ(y[i], finite[i]) << i;
            } else if (i % stride < outputs) {
              ASSERT_TRUE(std::isnan(LoadElement(y.data(), dtype(), i))) << i;
            }
          }
        }
        const std::vector<float> wide_bias = Widen(bias, dtype());
        for (int64_t n = 0; n < outputs; ++n) {
          ASSERT_EQ(LoadElement(finite.data(), dtype(), 2 * stride + n),
                    relu ? std::max(wide_bias[n], 0.0f) : wide_bias[n]);
        }
      }
    }
  }
}

TEST_P(Fp8Product, GivesTheSameBitsEveryTime) {
  const CodedLayer layer(1152, 2048, {WeightFormat::kFp8}, products_.get());
  const std::vector<uint16_t> bias(1152, 0);
  for (const int64_t rows : {24, 256}) {
    const std::vector<float> x = RandomRows(rows, 2048);
    const auto run = [&] {
      return Multiply(products_.get(), layer, x, rows, bias, false, dtype());
    };
    const std::vector<uint16_t> first = run();
    for (int i = 0; i < 10; ++i) ASSERT_EQ(run(), first);
  }
}

TEST_P(Fp8Product, RowsAreRoundedAsOnTheHost) {
  constexpr int64_t kRows = 9;
  for (const int64_t columns : {8, 100, 768, 7168, 8200, 28672, 49152}) {
    SCOPED_TRACE(columns);
    const int64_t x_stride = AlignedStride(columns);
    const int64_t stride = WeightStride(WeightFormat::kFp8, columns);
    std::vector<float> x = RandomRows(kRows, columns);
    std::fill_n(&x[4 * x_stride], columns, 0);
    x[5 * x_stride + columns - 1] = 300;  // an outlier
    const DeviceArray<uint16_t> device_x(Narrow(x, dtype()));
    const DeviceArray<uint8_t> codes(kRows * stride);
    const DeviceArray<float> scales(kRows);
    RoundRowsArgs args;
    args.x = device_x.data();
    args.x_stride = x_stride;
    args.rows = kRows;
    args.columns = columns;
    args.dtype = dtype();
    args.codes = codes.data();
    args.stride = stride;
    args.scales = scales.data();
    CheckCuda(RoundRows(args, nullptr));
    const std::vector<uint8_t> got = codes.Read();
    const std::vector<float> got_scales = scales.Read();
    x = Widen(Narrow(x, dtype()), dtype());
    for (int64_t r = 0; r < kRows; ++r) {
      float most = 0;
      for (int64_t k = 0; k < columns; ++k) {
        most = std::max(most, std::fabs(x[r * x_stride + k]));
      }
      const Fp8RowScale scale = Fp8ScaleOf(std::bit_cast<uint32_t>(most));
      EXPECT_EQ(got_scales[r], scale.scale);
      for (int64_t k = 0; k < stride; ++k) {
        const float number = k < columns ? x[r * x_stride + k] : 0;
        ASSERT_EQ(got[r * stride + k], ToFp8(number * scale.inverse))
            << "row " << r << ", column " << k;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Fp8Product,
                         ::testing::Values(DType::kBFloat16, DType::kFloat16),
                         [](const auto& info) {
                           return std::string(Name(info.param));
                         });

// ---- names ------------------------------------------------------------------

std::string NameOf(
    const ::testing::TestParamInfo<CodedProduct::ParamType>& info) {
  const WeightCoding& coding = kCodings[std::get<0>(info.param)];
  const bool in_groups = coding.format == WeightFormat::kInt4;
  return absl::StrCat(std::string(Name(coding.format)),
                      in_groups ? absl::StrCat("g", coding.group) : "",
                      std::string(Name(std::get<1>(info.param))));
}
INSTANTIATE_TEST_SUITE_P(All, CodedProduct,
                         ::testing::Combine(::testing::Range(0, 4),
                                            ::testing::Values(DType::kBFloat16,
                                                              DType::kFloat16)),
                         NameOf);

}  // namespace
}  // namespace h2o::cuda
