// Matrix products on the GPU against float64, and the file of choices.
#include "kernels/cuda/linear.h"

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "kernels/backend.h"
#include "kernels/cuda/product_choices.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/model/temp_directory.h"

namespace h2o::cuda {
namespace {

using ::testing::SizeIs;

struct Case {
  int64_t rows = 1, outputs = 1, inputs = 1;
  bool bias = false, relu = false;
  int64_t apart = 0;  // columns more from row to row than there need be
};

// A random matrix [rows, columns] of 16 bits, zero up to its aligned stride
// and NaN from there on.
struct Operand {
  Operand(int64_t num_rows, int64_t num_columns, int64_t apart, DType dtype,
          uint64_t seed, float range = 1)
      : rows(num_rows),
        columns(num_columns),
        stride(AlignedStride(columns) + apart),
        values(Uniform(rows * stride, seed, range)),
        device(Round(dtype)) {}

  // Of what the GPU reads, too.
  std::vector<uint16_t> Round(DType dtype) {
    for (int64_t i = 0; i < rows * stride; ++i) {
      if (i % stride >= columns) values[i] = 0;
      if (i % stride >= AlignedStride(columns)) values[i] = NAN;
    }
    const std::vector<uint16_t> bits = Narrow(values, dtype);
    values = Widen(bits, dtype);
    return bits;
  }

  int64_t rows, columns, stride;
  std::vector<float> values;
  DeviceArray<uint16_t> device;
};

// One product, with y in `Y` bits: all it reads and what it should give.
template <class Y>
class Product {
 public:
  Product(const Case& c, DType dtype)
      : c_(c),
        dtype_(dtype),
        y_dtype_(sizeof(Y) == 4 ? DType::kFloat32 : dtype),
        y_stride_(AlignedStride(c.outputs) + c.apart),
        x_(c.rows, c.inputs, c.apart, dtype, 1),
        weight_(c.outputs, c.inputs, 0, dtype, 2),
        bias_(c.outputs),
        device_bias_(MakeBias()) {}

  // y, written over poison, padding and all.
  std::vector<Y> Run(LinearProducts* products,
                     cudaStream_t stream = nullptr) const {
    const DeviceArray<Y> y(c_.rows * y_stride_);
    const absl::Status status = Enqueue(products, y, stream);
    EXPECT_TRUE(status.ok()) << status;
    return y.Read();
  }
  absl::Status Try(LinearProducts* products) const {
    const DeviceArray<Y> y(c_.rows * y_stride_);
    return Enqueue(products, y, nullptr);
  }
  absl::Status Enqueue(LinearProducts* products, const DeviceArray<Y>& y,
                       cudaStream_t stream) const {
    return products->Run(
        {x_.device.data(), c_.rows, c_.inputs, x_.stride, dtype_},
        {weight_.device.data(), FormatOf(dtype_), c_.outputs, c_.inputs,
         weight_.stride},
        c_.bias ? device_bias_.data() : nullptr, c_.relu,
        {y.data(), c_.rows, c_.outputs, y_stride_, y_dtype_}, stream);
  }

  // Sums of float32, rounded once.
  void Check(const std::vector<Y>& y) const {
    for (int64_t r = 0; r < c_.rows; ++r) {
      const float* x = &x_.values[r * x_.stride];
      for (int64_t n = 0; n < c_.outputs; ++n) {
        const float* w = &weight_.values[n * weight_.stride];
        double want = c_.bias ? bias_[n] : 0, magnitude = std::abs(want);
        for (int64_t k = 0; k < c_.inputs; ++k) {
          const double term = double{x[k]} * w[k];
          want += term;
          magnitude += std::abs(term);
        }
        if (c_.relu) want = std::max(want, 0.0);
        ASSERT_NEAR(LoadElement(y.data(), y_dtype_, r * y_stride_ + n), want,
                    std::abs(want) * HalfUlp(y_dtype_) + magnitude * 0x1.0p-18)
            << "row " << r << ", output " << n;
      }
    }
    ExpectPoisonBehind(c_.outputs, y_stride_, y);
  }
  void RunAndCheck(LinearProducts* products) const {
    SCOPED_TRACE(::testing::Message()
                 << c_.rows << " rows, " << c_.inputs << " to " << c_.outputs
                 << (c_.bias ? ", bias" : "") << (c_.relu ? ", relu" : ""));
    Check(Run(products));
  }

  int64_t y_size() const { return c_.rows * y_stride_; }

 private:
  std::vector<Y> MakeBias() {
    std::vector<Y> bits(c_.outputs);
    const std::vector<float> values = Uniform(c_.outputs, 3, 4);
    for (int64_t n = 0; n < c_.outputs; ++n) {
      StoreElement(bits.data(), y_dtype_, n, values[n]);
      bias_[n] = LoadElement(bits.data(), y_dtype_, n);
    }
    return bits;
  }

  const Case c_;
  const DType dtype_, y_dtype_;
  const int64_t y_stride_;
  const Operand x_, weight_;
  std::vector<float> bias_;
  const DeviceArray<Y> device_bias_;
};

std::unique_ptr<LinearProducts> NewProducts(const std::string& directory) {
  auto products = LinearProducts::Create(directory, /*searches=*/false);
  H2O_CHECK(products.ok()) << products.status();
  return *std::move(products);
}

// ---- the arithmetic ---------------------------------------------------------

class CudaLinear : public ::testing::TestWithParam<std::tuple<DType, bool>> {
 protected:
  void SetUp() override {
    H2O_SKIP_WITHOUT_GPU();
    products_ = NewProducts("");
  }

  void Check(const Case& c) {
    const auto [dtype, float32_outputs] = GetParam();
    if (float32_outputs) {
      Product<float>(c, dtype).RunAndCheck(products_.get());
    } else {
      Product<uint16_t>(c, dtype).RunAndCheck(products_.get());
    }
  }

  std::unique_ptr<LinearProducts> products_;
};

// Choices of a number of rows each, and those that several share.
TEST_P(CudaLinear, EqualsFloat64) {
  for (const int64_t rows : {1, 3, 16, 17, 32, 50, 64, 96, 100, 128, 129, 255,
                             256, 257, 300, 2048}) {
    for (const bool bias : {false, true}) {
      for (const bool relu : {false, true}) {
        Check({.rows = rows,
               .outputs = 70,
               .inputs = 100,
               .bias = bias,
               .relu = relu});
      }
    }
  }
}

// A rank's share of the vocabulary, and fewer outputs than a tile has.
TEST_P(CudaLinear, OddOutputs) {
  for (const int64_t rows : {1, 3, 16, 96, 300}) {
    Check({.rows = rows, .outputs = 6283, .inputs = 64});
  }
  for (const int64_t outputs : {1, 7, 33}) {
    Check({.rows = 5, .outputs = outputs, .inputs = 64, .bias = true});
  }
}

// Few outputs of long sums: kernels that split them.
TEST_P(CudaLinear, LongSums) {
  for (const int64_t rows : {1, 16, 96}) {
    Check({.rows = rows, .outputs = 64, .inputs = 4096, .bias = true});
  }
}

// Few rows, and y of 16 bits: a kernel of our own.
class CudaStreamedLinear : public CudaLinear {};

// Tiles of one block, of several, of two that exchange halves, and tiles whose
// rest is done before.
TEST_P(CudaStreamedLinear, ManyTiles) {
  for (const int64_t rows : {1, 16, 30, 64, 65, 96}) {
    Check({.rows = rows, .outputs = 9000, .inputs = 768, .relu = true});
    Check({.rows = rows, .outputs = 1300, .inputs = 3072, .bias = true});
    Check({.rows = rows, .outputs = 7100, .inputs = 1056, .bias = true});
  }
  for (const int64_t rows : {3, 66}) {
    Check({.rows = rows, .outputs = 44000, .inputs = 640, .bias = true});
  }
}

// As in a step: a product's blocks start while those in front still run, and
// read what they wrote.
TEST_P(CudaStreamedLinear, ChainsInAGraph) {
  constexpr int kWidths[] = {1024, 7168, 640};
  const DType dtype = std::get<0>(GetParam());
  std::vector<Operand> weights, ys;
  for (int i = 0; i < 9; ++i) {
    const int inputs = kWidths[i % 3], outputs = kWidths[(i + 1) % 3];
    weights.emplace_back(outputs, inputs, 0, dtype, 10 + i,
                         2 / std::sqrt(static_cast<float>(inputs)));
    ys.emplace_back(96, outputs, 0, dtype, 20 + i);
  }
  for (const int64_t rows : {1, 40, 96}) {
    const Operand x(rows, kWidths[0], 0, dtype, 30);
    const auto product = [&](int i, cudaStream_t stream) {
      const auto matrix = [&](const Operand& m) {
        return Matrix{m.device.data(), rows, m.columns, m.stride, dtype};
      };
      const Operand& w = weights[i];
      ASSERT_TRUE(products_
                      ->Run(matrix(i == 0 ? x : ys[i - 1]),
                            {w.device.data(), FormatOf(dtype), w.rows,
                             w.columns, w.stride},
                            nullptr, i % 2 == 1, matrix(ys[i]), stream)
                      .ok());
    };
    const int count = static_cast<int>(ys.size());
    for (int i = 0; i < count; ++i) {
      product(i, nullptr);
      CheckCuda(cudaDeviceSynchronize());
    }
    std::vector<std::vector<uint16_t>> want;
    for (const Operand& y : ys) want.push_back(y.device.Read());
    Recording chain([&](cudaStream_t stream) {
      for (int i = 0; i < count; ++i) product(i, stream);
    });
    for (int replay = 0; replay < 10; ++replay) {
      for (const Operand& y : ys) {
        CheckCuda(cudaMemset(y.device.data(), 0xff, 2 * rows * y.stride));
      }
      chain.Replay();
      for (int i = 0; i < count; ++i) {
        ASSERT_EQ(ys[i].device.Read(), want[i]) << rows << " rows, " << i;
      }
    }
  }
}

TEST_P(CudaStreamedLinear, TheSameBitsEveryTime) {
  const DType dtype = std::get<0>(GetParam());
  for (const int64_t rows : {5, 90}) {
    for (const auto& [outputs, inputs] :
         {std::pair(21504, 768), {7168, 2048}, {3000, 4096}}) {
      const Product<uint16_t> product(
          {.rows = rows, .outputs = outputs, .inputs = inputs, .bias = true},
          dtype);
      const std::vector<uint16_t> first = product.Run(products_.get());
      for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(product.Run(products_.get()), first) << outputs << ", " << i;
      }
    }
  }
}

// One choice for all, in any order, on either side of where it was made.
TEST_P(CudaLinear, RowsOfOneChoice) {
  for (const int64_t rows : {400, 257, 512, 301, 511, 258}) {
    Check({.rows = rows, .outputs = 96, .inputs = 64, .bias = true});
  }
}

TEST_P(CudaLinear, RowsFurtherApart) {
  for (const int64_t rows : {1, 16, 300}) {
    Check({.rows = rows,
           .outputs = 70,
           .inputs = 100,
           .bias = true,
           .apart = 2 * kRowAlignment});
    Check({.rows = rows, .outputs = 70, .inputs = 100, .bias = true});
  }
}

std::string FormatsOf(
    const ::testing::TestParamInfo<std::tuple<DType, bool>>& info) {
  const auto [dtype, float32_outputs] = info.param;
  return std::string(Name(dtype)) + (float32_outputs ? "ToFloat32" : "");
}
INSTANTIATE_TEST_SUITE_P(Formats, CudaLinear,
                         ::testing::Combine(::testing::Values(DType::kBFloat16,
                                                              DType::kFloat16),
                                            ::testing::Bool()),
                         FormatsOf);

INSTANTIATE_TEST_SUITE_P(Formats, CudaStreamedLinear,
                         ::testing::Combine(::testing::Values(DType::kBFloat16,
                                                              DType::kFloat16),
                                            ::testing::Values(false)),
                         FormatsOf);

// ---- the choices ------------------------------------------------------------

class CudaLinearChoices : public ::testing::Test {
 protected:
  static constexpr Case kCase = {
      .rows = 160, .outputs = 96, .inputs = 256, .bias = true};
  static constexpr Case kOther = {.rows = 300, .outputs = 70, .inputs = 100};

  void SetUp() override {
    H2O_SKIP_WITHOUT_GPU();
    product_.emplace(kCase, DType::kBFloat16);
    other_.emplace(kOther, DType::kBFloat16);
  }

  std::unique_ptr<LinearProducts> New() {
    return NewProducts(directory_.path());
  }
  // Of the products that ran in the directory; empty: none did.
  std::string Path() const {
    using Files = std::filesystem::directory_iterator;
    const Files file(directory_.path());
    return file == Files() ? "" : file->path().string();
  }
  ProductChoices Kept() const { return ReadProductChoices(Path()); }

  const TempDirectory directory_;
  std::optional<Product<uint16_t>> product_, other_;
};

TEST_F(CudaLinearChoices, AreKeptBetweenRuns) {
  const auto first = New();
  EXPECT_EQ(Path(), "");
  const std::vector<uint16_t> y = product_->Run(first.get());
  EXPECT_THAT(Kept(), SizeIs(1));
  const std::vector<uint16_t> other = other_->Run(first.get());
  EXPECT_THAT(Kept(), SizeIs(2));

  // Who chooses writes: the second does not.
  const auto second = New();
  std::filesystem::remove(Path());
  EXPECT_EQ(product_->Run(second.get()), y);
  EXPECT_EQ(other_->Run(second.get()), other);
  EXPECT_EQ(Path(), "");
}

TEST_F(CudaLinearChoices, FormatsHaveTheirOwn) {
  const auto products = New();
  product_->RunAndCheck(products.get());
  Product<uint16_t>(kCase, DType::kFloat16).RunAndCheck(products.get());
  EXPECT_THAT(Kept(), SizeIs(2));
  Product<float>({.rows = 160, .outputs = 96, .inputs = 256}, DType::kFloat16)
      .RunAndCheck(products.get());
  EXPECT_THAT(Kept(), SizeIs(3));
}

TEST_F(CudaLinearChoices, TornFilesAreMended) {
  const auto first = New();
  product_->Run(first.get());
  other_->Run(first.get());
  const ProductChoices whole = Kept();
  ASSERT_THAT(whole, SizeIs(2));

  const std::string path = Path();
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 3);
  std::ofstream(path, std::ios::app) << "\ngarbage\n";
  ASSERT_EQ(Kept(), ProductChoices({*whole.begin()}));
  const auto second = New();
  product_->RunAndCheck(second.get());
  other_->RunAndCheck(second.get());
  const ProductChoices mended = Kept();
  ASSERT_THAT(mended, SizeIs(2));
  EXPECT_EQ(*mended.begin(), *whole.begin());
  EXPECT_EQ(mended.rbegin()->first, whole.rbegin()->first);
}

// What names no kernel at all, what cuBLASLt takes for one (all ones), and the
// kernel of another product.
TEST_F(CudaLinearChoices, UnfitOnesDoNoHarm) {
  product_->Run(New().get());
  ASSERT_THAT(Kept(), SizeIs(1));
  const ProductShape shape = Kept().begin()->first;
  // As if it had been searched for: that helps it nothing.
  const ProductChoice zeros = {.searched = true};
  KeepProductChoice(shape, zeros, /*overrules=*/true, Path());
  product_->RunAndCheck(New().get());
  ASSERT_THAT(Kept(), SizeIs(1));
  EXPECT_NE(Kept().at(shape), zeros);

  ProductChoice ones;
  ones.algo.fill(~uint64_t{0});
  KeepProductChoice(shape, ones, /*overrules=*/true, Path());
  product_->RunAndCheck(New().get());

  std::filesystem::remove(Path());
  other_->Run(New().get());
  KeepProductChoice(shape, Kept().begin()->second, false, Path());
  product_->RunAndCheck(New().get());
}

// One that searches overrules what was only guessed, once; nobody overrules it.
TEST_F(CudaLinearChoices, ThoseSearchedForStay) {
  product_->Run(New().get());
  ASSERT_FALSE(Kept().begin()->second.searched);
  const auto searching = LinearProducts::Create(directory_.path(), true);
  ASSERT_TRUE(searching.ok()) << searching.status();
  product_->RunAndCheck(searching->get());
  const ProductChoices found = Kept();
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_TRUE(found.begin()->second.searched);
  product_->RunAndCheck(New().get());
  EXPECT_EQ(Kept(), found);
  const auto again = LinearProducts::Create(directory_.path(), true);
  ASSERT_TRUE(again.ok()) << again.status();
  product_->RunAndCheck(again->get());
  EXPECT_EQ(Kept(), found);
}

// Who searches does it for the file.
TEST_F(CudaLinearChoices, SearchingWantsAFile) {
  for (const std::string& directory : {std::string(), std::string("/proc")}) {
    const auto searching = LinearProducts::Create(directory, true);
    ASSERT_TRUE(searching.ok()) << searching.status();
    EXPECT_EQ(product_->Try(searching->get()).code(),
              absl::StatusCode::kFailedPrecondition);
  }
}

TEST_F(CudaLinearChoices, AreDoneWithoutWhereNoneCanBeKept) {
  const std::string file = directory_.Write("file", "");
  // "/proc" is there and yet takes no files, not even root's.
  for (const std::string& directory :
       {std::string(), std::string("/proc"), file, file + "/below"}) {
    const auto products = NewProducts(directory);
    product_->RunAndCheck(products.get());
    product_->RunAndCheck(products.get());
  }
  EXPECT_EQ(Path(), file);
}

// A recording takes a guess, which is right, and leaves the choice to later.
TEST_F(CudaLinearChoices, AreNotMadeInRecordings) {
  const auto products = New();
  const DeviceArray<uint16_t> y(product_->y_size());
  Recording recording([&](cudaStream_t stream) {
    ASSERT_TRUE(product_->Enqueue(products.get(), y, stream).ok());
  });
  EXPECT_EQ(Path(), "");
  recording.Replay();
  product_->Check(y.Read());
  product_->RunAndCheck(products.get());
  EXPECT_THAT(Kept(), SizeIs(1));
}

}  // namespace
}  // namespace h2o::cuda
