// Embeddings, positions, choices of rows, additions and norms: both twins
// against the words of kernels/backend.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "tests/kernels/test_backend.h"

namespace h2o {
namespace {

using Shape = std::tuple<std::string, int, int, DType>;

class Rows : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    backend_ = NewTestBackend(std::get<0>(GetParam()), dtype());
    if (backend_ == nullptr) GTEST_SKIP() << "this machine has no such device";
  }

  int rows() const { return std::get<1>(GetParam()); }
  int columns() const { return std::get<2>(GetParam()); }
  DType dtype() const { return std::get<3>(GetParam()); }
  DType activations() const { return backend_->formats().activations; }

  TestMatrix Random(int rows, DType dtype, uint64_t seed, float scale,
                    float shift = 0) const {
    return {backend_.get(), rows, columns(), dtype,
            Uniform(int64_t{rows} * columns(), seed, scale, shift)};
  }
  TestMatrix Poison(int rows, DType dtype) const {
    return {backend_.get(), rows, columns(), dtype};
  }
  OnDevice<int32_t> Put(const std::vector<int32_t>& values) const {
    return {backend_.get(), values};
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(Rows, EmbedTakesRowsAndZeros) {
  constexpr int kTableRows = 50, kFirst = 1000;
  const TestMatrix table = Random(kTableRows, dtype(), 1, 2);
  std::vector<int32_t> tokens(rows());
  for (int r = 0; r < rows(); ++r) tokens[r] = kFirst - 3 + r * 7 % 56;
  TestMatrix out = Poison(rows(), activations());
  backend_->Embed(Put(tokens).data(), kFirst, table.stored(), out.view());
  out.Read();
  for (int r = 0; r < rows(); ++r) {
    const int row = tokens[r] - kFirst;
    const bool exists = row >= 0 && row < kTableRows;
    for (int c = 0; c < columns(); ++c) {
      ASSERT_EQ(out.At(r, c), exists ? table.At(row, c) : 0) << r << ", " << c;
    }
  }
  out.ExpectPaddingKept();
}

TEST_P(Rows, GatherRowsCopies) {
  for (const DType format : {activations(), DType::kFloat32}) {
    const TestMatrix x = Random(rows(), format, 2, 2);
    const int count = rows() + 1;  // one of them twice
    std::vector<int32_t> rows_of(count);
    for (int i = 0; i < count; ++i) rows_of[i] = (rows() - 1 + i) % rows();
    TestMatrix out = Poison(count, format);
    backend_->GatherRows(x.view(), Put(rows_of).data(), out.view());
    out.Read();
    for (int i = 0; i < count; ++i) {
      for (int c = 0; c < columns(); ++c) {
        ASSERT_EQ(out.At(i, c), x.At(rows_of[i], c)) << i << ", " << c;
      }
    }
    out.ExpectPaddingKept();
  }
}

TEST_P(Rows, AddPositionsAdds) {
  constexpr int kPositions = 60;
  const TestMatrix delta = Random(rows(), activations(), 3, 1);
  const TestMatrix table = Random(kPositions, dtype(), 4, 1);
  std::vector<int32_t> positions(rows());
  for (int r = 0; r < rows(); ++r) positions[r] = r * 11 % (kPositions + 1) - 1;
  TestMatrix x = Poison(rows(), DType::kFloat32);
  backend_->AddPositions(delta.view(), Put(positions).data(), table.stored(),
                         x.view());
  x.Read();
  for (int r = 0; r < rows(); ++r) {
    const int position = std::max(positions[r], 0);
    for (int c = 0; c < columns(); ++c) {
      ASSERT_EQ(x.At(r, c), delta.At(r, c) + table.At(position, c))
          << r << ", " << c;
    }
  }
  x.ExpectPaddingKept();
}

// Which of AddNorm's optional arguments are given.
struct Variant {
  NormPlace place = NormPlace::kBefore;
  bool delta = true, bias = true, affine = true, out = true;
  float epsilon = 1e-5f;
};

class AddNorm : public Rows {
 protected:
  void Check(const Variant& v);
};

void AddNorm::Check(const Variant& v) {
  const int n = columns();
  // A mean far from zero: one-pass formulas would lose the variance.
  const TestMatrix before = Random(rows(), DType::kFloat32, 6, 3, 20);
  TestMatrix x = Random(rows(), DType::kFloat32, 6, 3, 20);
  const TestMatrix delta = Random(rows(), activations(), 7, 2);
  const TestMatrix bias = Random(1, backend_->formats().biases, 8, 1);
  const TestMatrix weight = Random(1, DType::kFloat32, 9, 1, 1);
  const TestMatrix norm_bias = Random(1, DType::kFloat32, 10, 1);
  TestMatrix out = Poison(rows(), activations());
  LayerNormWeights weights;
  if (v.affine) weights = {weight.view().Row(0), norm_bias.view().Row(0)};
  weights.epsilon = v.epsilon;
  backend_->AddNorm(x.view(), {v.delta ? delta.view() : Matrix{}},
                    v.bias ? bias.view().data : nullptr, v.place, weights,
                    v.out ? out.view() : Matrix{});
  x.Read();
  out.Read();
  std::vector<double> sum(n), y(n);
  for (int r = 0; r < rows(); ++r) {
    double mean = 0, variance = 0;
    for (int c = 0; c < n; ++c) {
      sum[c] = before.At(r, c);
      if (v.delta) {
        sum[c] += delta.At(r, c);
        if (v.bias) sum[c] += bias.At(0, c);
      }
      mean += sum[c] / n;
    }
    for (int c = 0; c < n; ++c) {
      variance += (sum[c] - mean) * (sum[c] - mean) / n;
    }
    for (int c = 0; c < n; ++c) {
      y[c] = (sum[c] - mean) / std::sqrt(variance + v.epsilon);
      if (v.affine) y[c] = y[c] * weight.At(0, c) + norm_bias.At(0, c);
      if (v.place == NormPlace::kNone) y[c] = sum[c];
      const double x_want = v.place == NormPlace::kAfter ? y[c] : sum[c];
      ASSERT_NEAR(x.At(r, c), x_want, 2e-5) << "x of " << r << ", " << c;
      if (!v.out) continue;
      ASSERT_NEAR(out.At(r, c), y[c],
                  std::abs(y[c]) * HalfUlp(activations()) + 2e-5)
          << "out of " << r << ", " << c;
    }
    // Not a bit of x changes where nothing is added.
    for (int c = 0; c < n && !v.delta && v.place != NormPlace::kAfter; ++c) {
      ASSERT_EQ(x.At(r, c), before.At(r, c)) << r;
    }
  }
  x.ExpectPaddingKept();
  out.ExpectPaddingKept();
  ASSERT_TRUE(v.out || out.IsPoison());
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
    ::testing::Combine(::testing::ValuesIn(BackendVariants()),
                       ::testing::ValuesIn(BackendRowCounts()),
                       ::testing::ValuesIn(BackendColumnCounts()),
                       ::testing::ValuesIn(BackendFormats()));
const auto kShapeName = [](const auto& info) {
  return std::get<0>(info.param) + "_" +
         std::to_string(std::get<1>(info.param)) + "x" +
         std::to_string(std::get<2>(info.param)) +
         std::string(Name(std::get<3>(info.param)));
};
INSTANTIATE_TEST_SUITE_P(Shapes, Rows, kShapes, kShapeName);
INSTANTIATE_TEST_SUITE_P(Shapes, AddNorm, kShapes, kShapeName);

}  // namespace
}  // namespace h2o
