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
          uint64_t seed)
      : rows(num_rows),
        columns(num_columns),
        stride(AlignedStride(columns) + apart),
        values(Uniform(rows * stride, seed, 1)),
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
        {weight_.device.data(), dtype_, c_.outputs, c_.inputs, weight_.stride},
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
  for (const int64_t rows : {1, 3, 16, 96, 255, 256, 257, 300, 2048}) {
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

INSTANTIATE_TEST_SUITE_P(Formats, CudaLinear,
                         ::testing::Combine(::testing::Values(DType::kBFloat16,
                                                              DType::kFloat16),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(Name(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "ToFloat32" : "");
                         });

// ---- the choices ------------------------------------------------------------

class CudaLinearChoices : public ::testing::Test {
 protected:
  static constexpr Case kCase = {
      .rows = 16, .outputs = 96, .inputs = 256, .bias = true};
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
  Product<float>({.rows = 16, .outputs = 96, .inputs = 256}, DType::kFloat16)
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
