// Random weights: both twins make the same bits, whatever part of a tensor they
// fill.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "base/dtype.h"
#include "base/dummy_codes.h"
#include "base/sampling.h"
#include "base/weight_format.h"
#include "tests/kernels/test_backend.h"

namespace h2o {
namespace {

constexpr uint64_t kSeed = 0x123456789abcdefu;
constexpr uint64_t kName = 0xcbf29ce484222325u;
constexpr float kScale = 0.02f * 1.7320508f;

struct Rectangle {
  int64_t row_begin, rows, column_begin, columns, full_columns, stride;
};

// Element by element, over poison.
std::vector<uint8_t> Expected(const Rectangle& t, DType dtype) {
  std::vector<uint8_t> bytes(t.rows * t.stride * SizeOf(dtype), 0xff);
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t c = 0; c < t.columns; ++c) {
      const uint64_t e =
          (t.row_begin + r) * t.full_columns + t.column_begin + c;
      const auto random = CounterRandom(kSeed, e / 4, kName);
      const float u =
          static_cast<float>(static_cast<int32_t>(random[e % 4])) * 0x1.0p-31f;
      StoreElement(bytes.data(), dtype, r * t.stride + c, u * kScale);
    }
  }
  return bytes;
}

class FillDummy
    : public ::testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  void SetUp() override {
    backend_ = NewTestBackend(std::get<0>(GetParam()), BackendFormats()[0]);
    if (backend_ == nullptr) GTEST_SKIP() << "this machine has no such device";
  }

  void Check(const Rectangle& t) {
    const DType dtype = std::get<1>(GetParam());
    const OnDevice<uint8_t> out(backend_.get(),
                                t.rows * t.stride * SizeOf(dtype));
    backend_->FillDummy({kSeed, kName, kScale, t.row_begin, t.rows,
                         t.column_begin, t.columns, t.full_columns},
                        dtype, out.data(), t.stride);
    const std::vector<uint8_t> got = out.Read(), want = Expected(t, dtype);
    int64_t wrong = 0;
    for (size_t i = 0; i < got.size(); ++i) wrong += got[i] != want[i];
    EXPECT_EQ(wrong, 0) << "bytes of " << got.size();
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(FillDummy, WholeMatrices) {
  Check({0, 300, 0, 768, 768, 768});
  Check({0, 40, 0, 2560, 2560, 2592});
}

TEST_P(FillDummy, RowsThatBeginWithinACall) {
  for (int64_t column = 0; column < 5; ++column) {
    for (int64_t columns : {1, 2, 3, 4, 5, 37, 1030}) {
      Check({3, 6, column, columns, 1051, 1056});
    }
  }
}

TEST_P(FillDummy, AlignedPartsOfRows) {
  Check({17, 30, 1792, 1792, 7168, 1792});
  Check({1, 30, 4, 102, 1024, 128});
}

TEST_P(FillDummy, Vectors) {
  Check({0, 1, 0, 7168, 7168, 7168});
  Check({0, 1, 5000, 21504, 40000, 21504});
}

TEST_P(FillDummy, NumbersBeyond32Bits) {
  Check({3000001, 5, 3, 500, 7168, 512});
  Check({3000000, 5, 0, 512, 7168, 512});
}

// More rows, and more columns, than the grid has blocks for.
TEST_P(FillDummy, LongAndWide) {
  Check({0, 5000, 0, 8, 8, 8});
  Check({0, 1, 1, 1100000, 1100004, 1100032});
}

INSTANTIATE_TEST_SUITE_P(
    DTypes, FillDummy,
    ::testing::Combine(::testing::ValuesIn(BackendVariants()),
                       ::testing::Values(DType::kFloat32, DType::kBFloat16,
                                         DType::kFloat16)),
    [](const auto& info) {
      return std::get<0>(info.param) + "_" +
             std::string(Name(std::get<1>(info.param)));
    });

// Code by code, over poison.
std::vector<uint8_t> ExpectedCodes(const Rectangle& t, WeightFormat format) {
  const int bits = BitsOf(format), of_word = 32 / bits;
  std::vector<uint8_t> bytes(t.rows * t.stride, 0xff);
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t c = 0; c < t.columns; ++c) {
      const uint64_t e =
          (t.row_begin + r) * t.full_columns + t.column_begin + c;
      const uint32_t word = DummyWord(format, kSeed, kName, e / of_word);
      const uint32_t code = word >> (e % of_word * bits) & ((1u << bits) - 1);
      uint8_t& byte = bytes[r * t.stride + c * bits / 8];
      const int shift = static_cast<int>(c * bits % 8);
      byte = static_cast<uint8_t>((shift == 0 ? 0 : byte) | code << shift);
    }
  }
  return bytes;
}

// `stride` is in bytes.
class FillDummyCodes
    : public ::testing::TestWithParam<std::tuple<std::string, WeightFormat>> {
 protected:
  void Check(const Rectangle& t) {
    const auto& [name, format] = GetParam();
    const auto backend = NewTestBackend(name, BackendFormats()[0]);
    if (backend == nullptr) GTEST_SKIP() << "this machine has no such device";
    const OnDevice<uint8_t> out(backend.get(), t.rows * t.stride);
    backend->FillDummyCodes({kSeed, kName, kScale, t.row_begin, t.rows,
                             t.column_begin, t.columns, t.full_columns},
                            format, out.data(), t.stride);
    EXPECT_EQ(out.Read(), ExpectedCodes(t, format));
  }
};

TEST_P(FillDummyCodes, WholeRowsAndPartsOfThem) {
  Check({0, 70, 0, 512, 512, 512});
  Check({9, 33, 128, 256, 1024, 256});
}
// As ranks have that divide the inputs unevenly.
TEST_P(FillDummyCodes, PartsThatBeginAnywhere) {
  Check({0, 5, 0, 420, 420, 512});
  if (std::get<1>(GetParam()) == WeightFormat::kInt4) return;
  Check({3, 6, 171, 171, 512, 256});
}

INSTANTIATE_TEST_SUITE_P(
    Formats, FillDummyCodes,
    ::testing::Combine(::testing::ValuesIn(BackendVariants()),
                       ::testing::Values(WeightFormat::kFp8,
                                         WeightFormat::kInt8,
                                         WeightFormat::kInt4)),
    [](const auto& info) {
      return std::get<0>(info.param) + "_" +
             std::string(Name(std::get<1>(info.param)));
    });

}  // namespace
}  // namespace h2o
