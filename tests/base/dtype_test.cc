// Checks the names of number formats and the rounding to 16 bits.
#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace h2o {
namespace {

TEST(DType, NamesRoundTrip) {
  for (DType d : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    EXPECT_EQ(ParseDType(Name(d)), d);
  }
  EXPECT_EQ(ParseDType("int8"), std::nullopt);
  EXPECT_EQ(ParseDType(""), std::nullopt);
}

TEST(DType, SixteenBitsSurviveWidening) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t h = static_cast<uint16_t>(bits);
    const float bf = FromBFloat16(h), fp = FromFloat16(h);
    if (std::isnan(bf)) {
      EXPECT_TRUE(std::isnan(FromBFloat16(ToBFloat16(bf)))) << bits;
    } else {
      EXPECT_EQ(ToBFloat16(bf), h) << bits;
    }
    if (std::isnan(fp)) {
      EXPECT_TRUE(std::isnan(FromFloat16(ToFloat16(fp)))) << bits;
    } else {
      EXPECT_EQ(ToFloat16(fp), h) << bits;
    }
  }
}

TEST(DType, RoundsToNearestEven) {
  EXPECT_EQ(FromBFloat16(ToBFloat16(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(FromBFloat16(ToBFloat16(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);
  EXPECT_EQ(FromBFloat16(ToBFloat16(1.0f + 0x1p-8f + 0x1p-20f)),
            1.0f + 0x1p-7f);
  EXPECT_EQ(FromFloat16(ToFloat16(2049.0f)), 2048.0f);
  EXPECT_EQ(ToFloat16(1e6f), 0x7c00);
  EXPECT_EQ(ToBFloat16(-std::numeric_limits<float>::infinity()), 0xff80);
}

TEST(DType, ElementsAreStoredWhereTheyAreRead) {
  alignas(4) unsigned char memory[16];
  for (DType d : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (int i = 0; i < 4; ++i) StoreElement(memory, d, i, 0.5f * i);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(LoadElement(memory, d, i), 0.5f * i);
  }
}

}  // namespace
}  // namespace h2o
