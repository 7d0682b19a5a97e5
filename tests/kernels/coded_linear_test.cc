// Checks the CPU's linear layers with weights of codes against float64 of what
// the codes stand for, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "base/weight_codes.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/small_linear.h"
#include "tests/kernels/activations.h"
#include "tests/kernels/each_target.h"

namespace h2o {
namespace {

struct Coding {
  WeightFormat format = WeightFormat::kFp8;
  int group = 0;
};
constexpr Coding kCodings[] = {{WeightFormat::kFp8},
                               {WeightFormat::kInt8},
                               {WeightFormat::kInt4, 64},
                               {WeightFormat::kInt4, 128}};

CpuBackendOptions SmallOptions() {
  CpuBackendOptions options;
  options.max_prompt = options.max_slots = 64;
  options.max_rows = 256;
  options.max_inputs = 512;
  options.max_heads = 1;
  options.vocab_size = 16;
  options.head_dim = 16;
  return options;
}

// rounds_inputs: with few rows.
std::unique_ptr<Backend> MakeBackend(int threads, bool rounds_inputs = false) {
  CpuBackendOptions options = SmallOptions();
  options.num_threads = threads;
  options.bf16_products = rounds_inputs;
  return NewCpuBackend(options).value();
}

std::unique_ptr<Backend> MakeFp8Backend(bool bf16_products) {
  CpuBackendOptions options = SmallOptions();
  options.num_threads = 2;
  options.bf16_products = bf16_products;
  options.fp8_activations = true;
  return NewCpuBackend(options).value();
}

// A row of inputs as e4m3 has it.
std::vector<float> RoundedRow(const float* x, int n) {
  float most = 0;
  for (int i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i]));
  std::vector<float> row(n);
  for (int i = 0; i < n; ++i) {
    row[i] = FromFp8(ToFp8(x[i] * (448 / most))) * (most / 448);
  }
  return row;
}

// Random weights as codes.  Codes behind the columns are random, too.
class CodedLayer {
 public:
  CodedLayer(int outputs, int inputs, Coding coding, Backend* backend)
      : bias(outputs), decoded_(outputs * inputs) {
    const WeightFormat format = coding.format;
    weight = {nullptr, format, outputs, inputs, WeightStride(format, inputs)};
    weight.group = coding.group;
    std::mt19937 random(outputs + inputs);
    codes_.resize(weight.bytes());
    if (format == WeightFormat::kInt4) {
      groups_.resize(weight.scale_bytes() / sizeof(GroupScale));
    }
    for (std::byte& code : codes_) {
      code = static_cast<std::byte>(random() & 0x77);  // no NaN
    }
    std::normal_distribution<float> normal;
    std::vector<float> row(inputs);
    for (int n = 0; n < outputs; ++n) {
      for (float& w : row) w = normal(random);
      bias[n] = normal(random);
      Encode(row, n);
    }
    weight.data = codes_.data();
    void* const scales = format == WeightFormat::kInt4
                             ? static_cast<void*>(groups_.data())
                             : scales_.data();
    weight.scales = scales;
    backend->Arrange(weight, codes_.data(), scales);
  }

  double Output(const float* x, int n) const {
    double sum = bias[n];
    for (int64_t k = 0; k < weight.columns; ++k) {
      sum += double{x[k]} * decoded_[n * weight.columns + k];
    }
    return sum;
  }
  float At(int64_t n, int64_t k) const {
    return decoded_[n * weight.columns + k];
  }

  StoredMatrix weight;
  std::vector<float> bias;

 private:
  void Encode(const std::vector<float>& row, int n) {
    std::byte* codes = codes_.data() + n * weight.row_bytes();
    const auto decoded =
        absl::MakeSpan(decoded_).subspan(n * row.size(), row.size());
    if (weight.format == WeightFormat::kInt4) {
      GroupScale* scales = &groups_[n * weight.groups()];
      for (size_t i = 0; i < row.size(); i += weight.group) {
        scales[i / weight.group] =
            ScaleOfGroup(absl::MakeSpan(row).subspan(i, weight.group));
      }
      EncodeInt4Row(row, weight.group, scales, codes);
      return DecodeInt4Row(codes, weight.group, scales, decoded);
    }
    float most = 0;
    for (const float w : row) most = std::max(most, std::fabs(w));
    scales_.push_back(ScaleOf(weight.format, most));
    EncodeRow(weight.format, row, scales_.back(), codes);
    DecodeRow(weight.format, codes, scales_.back(), decoded);
  }

  std::vector<std::byte> codes_;
  std::vector<float> scales_;
  std::vector<GroupScale> groups_;
  std::vector<float> decoded_;
};

class CodedLinear : public EachTarget {};

TEST_P(CodedLinear, EqualsFloat64OfTheCodes) {
  const auto backend = MakeBackend(2);
  for (const Coding coding : kCodings) {
    for (const int rows : {1, 2, 5, 6, 7, 64, 65, 130}) {
      for (auto [outputs, inputs] :
           {std::pair{1, 16}, {7, 33}, {64, 96}, {30, 128}, {37, 420}}) {
        const CodedLayer layer(outputs, inputs, coding, backend.get());
        const Activations x(rows, inputs, 5);
        Activations y(rows, outputs, 9);
        for (int r = 0; r < rows; ++r) {
          std::fill_n(y.view.Row(r), outputs,
                      std::numeric_limits<float>::quiet_NaN());
        }
        backend->Linear(x.view, {layer.weight, layer.bias.data()},
                        Epilogue::kRelu, y.view);
        for (int r = 0; r < rows; ++r) {
          for (int n = 0; n < outputs; ++n) {
            ASSERT_NEAR(y.view.Row(r)[n],
                        std::max(layer.Output(x.view.Row(r), n), 0.0), 2e-4)
                << Name(coding.format) << ' ' << rows << "x" << outputs << "x"
                << inputs << " at " << r << ", " << n;
          }
        }
      }
    }
  }
}

TEST_P(CodedLinear, ARowIsTheSameAloneAndInABatch) {
  const auto backend = MakeBackend(2);
  for (const Coding coding : kCodings) {
    const CodedLayer layer(50, 200, coding, backend.get());
    const Activations x(64, 200, 2);
    Activations batch(64, 50, 3), alone(64, 50, 3);
    const LinearWeights weights{layer.weight, layer.bias.data()};
    backend->Linear(x.view, weights, Epilogue::kNone, batch.view);
    for (int r = 0; r < 64; ++r) {
      backend->Linear(x.view.Rows(r, 1), weights, Epilogue::kNone,
                      alone.view.Rows(r, 1));
    }
    EXPECT_EQ(batch.data, alone.data) << Name(coding.format);
  }
}

TEST_P(CodedLinear, RowsAreWidened) {
  const auto backend = MakeBackend(1);
  for (const Coding coding : kCodings) {
    const CodedLayer layer(9, 200, coding, backend.get());
    const int64_t stride = AlignedStride(200);
    std::vector<float> wide(4 * stride);
    cpu::WidenRows(layer.weight, 3, 7, wide.data());
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 200; ++c) {
        ASSERT_NEAR(wide[r * stride + c], layer.At(3 + r, c), 1e-6)
            << Name(coding.format);
      }
    }
  }
}

// An input is off by half a unit at most, a unit being 1/32,767 of the row's
// greatest; such errors add up as random ones do.
TEST_P(CodedLinear, EqualsFloat64WithRoundedInputs) {
  const auto backend = MakeBackend(2, true);
  for (const Coding coding : kCodings) {
    for (const int rows : {1, 2, 7, 8}) {
      for (auto [outputs, inputs] : {std::pair{1, 16},
                                     {7, 33},
                                     {64, 96},
                                     {30, 128},
                                     {37, 420},
                                     {5, 512}}) {
        const CodedLayer layer(outputs, inputs, coding, backend.get());
        Activations x(rows, inputs, 5);
        for (int r = 0; r < rows; ++r) {  // of other scales
          for (int k = 0; k < inputs; ++k) x.view.Row(r)[k] *= 1 << (3 * r);
        }
        Activations y(rows, outputs, 9);
        backend->Linear(x.view, {layer.weight, layer.bias.data()},
                        Epilogue::kRelu, y.view);
        for (int r = 0; r < rows; ++r) {
          float most = 0;
          for (int k = 0; k < inputs; ++k) {
            most = std::max(most, std::fabs(x.view.Row(r)[k]));
          }
          for (int n = 0; n < outputs; ++n) {
            double squares = 0;
            for (int k = 0; k < inputs; ++k) {
              squares += double{layer.At(n, k)} * layer.At(n, k);
            }
            ASSERT_NEAR(
                y.view.Row(r)[n], std::max(layer.Output(x.view.Row(r), n), 0.0),
                2e-4 * (1 << (3 * r)) + 6 * most / 65534 * std::sqrt(squares))
                << Name(coding.format) << ' ' << rows << "x" << outputs << "x"
                << inputs << " at " << r << ", " << n;
          }
        }
      }
    }
  }
}

TEST_P(CodedLinear, RoundedInputsStayZeroOrNotFinite) {
  const auto backend = MakeBackend(1, true);
  for (const Coding coding : kCodings) {
    const CodedLayer layer(9, 200, coding, backend.get());
    const LinearWeights weights{layer.weight, nullptr};
    Activations x(1, 200, 5), y(1, 9, 9);
    for (const float odd : {std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
      x.view.Row(0)[77] = odd;
      backend->Linear(x.view, weights, Epilogue::kNone, y.view);
      for (int n = 0; n < 9; ++n) {
        EXPECT_FALSE(std::isfinite(y.view.Row(0)[n])) << Name(coding.format);
      }
    }
    std::fill_n(x.view.Row(0), 200, 0.0f);
    backend->Linear(x.view, weights, Epilogue::kNone, y.view);
    for (int n = 0; n < 9; ++n) EXPECT_EQ(y.view.Row(0)[n], 0);
  }
}

// The greatest sums of whole numbers.
TEST_P(CodedLinear, RoundedInputsDoNotOverflow) {
  constexpr int kInputs = 12288;
  CpuBackendOptions options;
  options.num_threads = 1;
  options.max_prompt = options.max_slots = options.max_rows = 8;
  options.max_inputs = kInputs;
  options.max_heads = 1;
  options.vocab_size = options.head_dim = 16;
  options.bf16_products = true;
  const auto backend = NewCpuBackend(options).value();
  const std::vector<std::byte> codes(4 * kInputs, std::byte{127});
  const std::vector<float> scales(4, 0.5f);
  StoredMatrix weight{codes.data(), WeightFormat::kInt8, 4, kInputs, kInputs};
  weight.scales = scales.data();
  Activations x(1, kInputs, 5), y(1, 4, 9);
  std::fill_n(x.view.Row(0), kInputs, 3.0f);
  backend->Linear(x.view, {weight, nullptr}, Epilogue::kNone, y.view);
  for (int n = 0; n < 4; ++n) {
    EXPECT_NEAR(y.view.Row(0)[n], 63.5 * 3 * kInputs, 1);
  }
}

TEST_P(CodedLinear, EqualsFloat64WithFp8Inputs) {
  for (const bool bf16_products : {false, true}) {
    const auto backend = MakeFp8Backend(bf16_products);
    for (const int rows : {1, 6, 65}) {
      for (auto [outputs, inputs] : {std::pair{7, 33}, {64, 96}, {37, 420}}) {
        const CodedLayer layer(outputs, inputs, {WeightFormat::kFp8},
                               backend.get());
        Activations x(rows, inputs, 5), y(rows, outputs, 9);
        for (int r = 0; r < rows; ++r) {  // of other scales
          for (int k = 0; k < inputs; ++k) x.view.Row(r)[k] *= 1 << (r % 8);
        }
        backend->Linear(x.view, {layer.weight, layer.bias.data()},
                        Epilogue::kRelu, y.view);
        for (int r = 0; r < rows; ++r) {
          const std::vector<float> rounded = RoundedRow(x.view.Row(r), inputs);
          for (int n = 0; n < outputs; ++n) {
            ASSERT_NEAR(y.view.Row(r)[n],
                        std::max(layer.Output(rounded.data(), n), 0.0),
                        3e-4 * (1 << (r % 8)))
                << rows << "x" << outputs << "x" << inputs << " at " << r
                << ", " << n;
          }
        }
      }
    }
  }
}

TEST_P(CodedLinear, OtherWeightsTakeTheirInputsAsTheyAre) {
  const auto plain = MakeBackend(2), fp8 = MakeFp8Backend(false);
  for (const Coding coding : kCodings) {
    if (coding.format == WeightFormat::kFp8) continue;
    const CodedLayer layer(9, 200, coding, plain.get());
    const Activations x(3, 200, 5);
    Activations a(3, 9, 6), b(3, 9, 7);
    const LinearWeights weights{layer.weight, layer.bias.data()};
    plain->Linear(x.view, weights, Epilogue::kNone, a.view);
    fp8->Linear(x.view, weights, Epilogue::kNone, b.view);
    EXPECT_EQ(a.data, b.data) << Name(coding.format);
  }
}

TEST_P(CodedLinear, Fp8InputsStayZeroOrNotFinite) {
  const auto backend = MakeFp8Backend(false);
  const CodedLayer layer(9, 200, {WeightFormat::kFp8}, backend.get());
  const LinearWeights weights{layer.weight, nullptr};
  Activations x(3, 200, 5), y(3, 9, 9), finite(3, 9, 9);
  std::fill_n(x.view.Row(2), 200, 0.0f);
  backend->Linear(x.view, weights, Epilogue::kNone, finite.view);
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(),
                          -std::numeric_limits<float>::infinity()}) {
    x.view.Row(1)[77] = odd;
    backend->Linear(x.view, weights, Epilogue::kNone, y.view);
    for (int n = 0; n < 9; ++n) {
      EXPECT_EQ(y.view.Row(0)[n], finite.view.Row(0)[n]);
      EXPECT_TRUE(std::isnan(y.view.Row(1)[n]));
      EXPECT_EQ(y.view.Row(2)[n], 0);
    }
  }
}

H2O_INSTANTIATE_EACH_TARGET(CodedLinear);

}  // namespace
}  // namespace h2o
