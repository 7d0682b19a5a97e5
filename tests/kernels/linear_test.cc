// Checks the CPU's linear layers against float64, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/small_linear.h"
#include "tests/kernels/activations.h"
#include "tests/kernels/each_target.h"

namespace h2o {
namespace {

// A random layer with padded rows, and its reference in float64.
struct Layer {
  Layer(int outputs, int inputs, DType dtype, int seed)
      : weight{nullptr, FormatOf(dtype), outputs, inputs,
               AlignedStride(inputs)},
        memory(outputs * weight.row_bytes()),
        bias(outputs) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    weight.data = memory.data();
    for (int r = 0; r < outputs; ++r) {
      for (int c = 0; c < inputs; ++c) {
        StoreElement(memory.data(), dtype, r * weight.stride + c,
                     normal(random));
      }
      bias[r] = normal(random);
    }
  }
  double Output(const float* x, int n) const {
    double sum = 0;
    for (int64_t k = 0; k < weight.columns; ++k) {
      sum +=
          double{x[k]} * LoadElement(weight.Row(n), DTypeOf(weight.format), k);
    }
    return sum;
  }

  StoredMatrix weight;
  std::vector<std::byte> memory;
  std::vector<float> bias;
};

double Finished(double value, Epilogue epilogue) {
  if (epilogue == Epilogue::kRelu) return std::max(value, 0.0);
  if (epilogue == Epilogue::kGelu) {
    return 0.5 * value * (1 + std::erf(value / std::sqrt(2.0)));
  }
  return value;
}

std::unique_ptr<Backend> MakeBackend(int threads, bool bf16) {
  CpuBackendOptions options;
  options.num_threads = threads;
  options.max_prompt = options.max_slots = 64;
  options.max_rows = 256;
  options.max_inputs = 512;
  options.max_heads = 1;
  options.vocab_size = 16;
  options.head_dim = 16;
  options.bf16_products = bf16;
  return NewCpuBackend(options).value();
}

void ExpectLinear(Backend* backend, int rows, int outputs, int inputs,
                  DType dtype, Epilogue epilogue, double tolerance) {
  const Layer layer(outputs, inputs, dtype, rows + outputs);
  const Activations x(rows, inputs, inputs);
  Activations y(rows, outputs, 9);
  for (int r = 0; r < rows; ++r) {
    std::fill_n(y.view.Row(r), outputs,
                std::numeric_limits<float>::quiet_NaN());
  }
  backend->Linear(x.view, {layer.weight, layer.bias.data()}, epilogue, y.view);
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < outputs; ++n) {
      double expected = layer.Output(x.view.Row(r), n) + layer.bias[n];
      expected = Finished(expected, epilogue);
      ASSERT_NEAR(y.view.Row(r)[n], expected, tolerance)
          << rows << "x" << outputs << "x" << inputs << " at " << r << ", "
          << n;
    }
    for (int64_t pad = outputs; pad < y.view.stride; ++pad) {
      ASSERT_EQ(y.view.Row(r)[pad], 0) << "padding was written";
    }
  }
}

class Linear : public EachTarget {};

TEST_P(Linear, EqualsFloat64AtEveryShapeAndFormat) {
  const auto backend = MakeBackend(2, false);
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (int rows : {1, 2, 3, 5, 6, 7, 13, 64, 65, 130}) {
      for (auto [outputs, inputs] :
           {std::pair{1, 16}, {7, 33}, {64, 96}, {130, 80}}) {
        ExpectLinear(backend.get(), rows, outputs, inputs, dtype,
                     Epilogue::kNone, 1e-4);
      }
    }
  }
}

TEST_P(Linear, Epilogues) {
  const auto backend = MakeBackend(1, false);
  for (Epilogue e : {Epilogue::kNone, Epilogue::kRelu, Epilogue::kGelu}) {
    for (int rows : {3, 70}) {
      ExpectLinear(backend.get(), rows, 37, 48, DType::kFloat16, e, 1e-4);
    }
  }
}

TEST_P(Linear, ARowIsTheSameAloneAndInABatch) {
  const auto backend = MakeBackend(2, false);
  const Layer layer(50, 200, DType::kFloat16, 1);
  const Activations x(64, 200, 2);
  Activations batch(64, 50, 3), alone(64, 50, 4);
  const LinearWeights weights{layer.weight, layer.bias.data()};
  backend->Linear(x.view, weights, Epilogue::kNone, batch.view);
  for (int r = 0; r < 64; ++r) {
    backend->Linear(x.view.Rows(r, 1), weights, Epilogue::kNone,
                    alone.view.Rows(r, 1));
  }
  EXPECT_EQ(batch.data, alone.data);
}

TEST_P(Linear, RoundsToBFloat16AsTheScalarDoes) {
  std::mt19937 random(1);
  std::vector<float> x(kRowAlignment * 50);
  for (float& v : x) v = std::bit_cast<float>(static_cast<uint32_t>(random()));
  int at = 0;
  // NaN and infinities; the first would round to -0 if it were a number.
  for (const uint32_t bits : {0x7fffffffu, 0xffffffffu, 0x7f800001u,
                              0xff800001u, 0x7f800000u, 0xff800000u}) {
    x[at++] = std::bit_cast<float>(bits);
  }
  std::vector<uint16_t> rounded(x.size());
  cpu::RoundToBFloat16(x.data(), static_cast<int64_t>(x.size()),
                       rounded.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(rounded[i], ToBFloat16(x[i])) << x[i];
  }
}

H2O_INSTANTIATE_EACH_TARGET(Linear);

TEST(BFloat16Units, EqualFloat64OfRoundedInputs) {
  if (!cpu::BFloat16Product::Supported()) {
    GTEST_SKIP() << "this CPU has neither AVX-512 BF16 nor AMX";
  }
  const auto backend = MakeBackend(2, true);
  for (int rows : {24, 64, 100}) {
    // Activations lose 16 bits: relative error 2^-9 a product.
    ExpectLinear(backend.get(), rows, 70, 300, DType::kBFloat16,
                 Epilogue::kRelu, 0.3);
  }
}

TEST(BFloat16Units, TilesEqualFloat64) {
  if (!cpu::BFloat16Product::Supported()) {
    GTEST_SKIP() << "this CPU has neither AVX-512 BF16 nor AMX";
  }
  // Every number of vectors a block, two blocks of rows and of columns, tiles
  // that are not whole.
  struct Shape {
    int64_t m, n, k;
  };
  for (auto [m, n, k] : {Shape{1, 1, 32},
                         {16, 16, 64},
                         {17, 5, 96},
                         {33, 19, 352},
                         {64, 37, 1568},
                         {65, 50, 3104}}) {
    std::mt19937 random(static_cast<unsigned>(m));
    std::normal_distribution<float> normal;
    const int64_t lda = k + 32, ldb = k + 64, ldc = n + 3;
    std::vector<uint16_t> a(m * lda), b(n * ldb);
    for (uint16_t& v : a) v = ToBFloat16(normal(random));
    for (uint16_t& v : b) v = ToBFloat16(normal(random));
    std::vector<float> c(m * ldc, 7);
    cpu::BFloat16Product product;
    product.Run(m, n, k, a.data(), lda, b.data(), ldb, c.data(), ldc);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t i = 0; i < ldc; ++i) {
        double expected = i < n ? 0 : 7;
        for (int64_t j = 0; i < n && j < k; ++j) {
          expected +=
              double{LoadElement(a.data(), DType::kBFloat16, r * lda + j)} *
              LoadElement(b.data(), DType::kBFloat16, i * ldb + j);
        }
        ASSERT_NEAR(c[r * ldc + i], expected, 1e-3)
            << m << "x" << n << "x" << k << " at " << r << ", " << i;
      }
    }
  }
}

TEST(BFloat16Units, ARowIsTheSameAmongAnyOthers) {
  if (!cpu::BFloat16Product::Supported()) {
    GTEST_SKIP() << "this CPU has neither AVX-512 BF16 nor AMX";
  }
  const auto backend = MakeBackend(2, true);
  const Layer layer(50, 200, DType::kBFloat16, 1);
  const Activations x(100, 200, 2);
  Activations all(100, 50, 3), some(100, 50, 3);
  const LinearWeights weights{layer.weight, layer.bias.data()};
  backend->Linear(x.view, weights, Epilogue::kNone, all.view);
  for (int r = 0; r < 100; r += 25) {
    backend->Linear(x.view.Rows(r, 25), weights, Epilogue::kNone,
                    some.view.Rows(r, 25));
  }
  EXPECT_EQ(all.data, some.data);
}

TEST(Backend, RefusesHeadDimensionsItHasNot) {
  CpuBackendOptions options;
  options.max_prompt = options.max_slots = options.max_rows = 8;
  options.max_inputs = options.max_heads = options.vocab_size = 8;
  for (int head_dim : {0, 8, 20, 272}) {
    options.head_dim = head_dim;
    EXPECT_EQ(NewCpuBackend(options).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  options.head_dim = 16;
  options.num_threads = 0;
  EXPECT_EQ(NewCpuBackend(options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace h2o
