// Checks codes of weights: every code of fp8, and rounding errors of rows.
#include "base/weight_codes.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/fp8_rows.h"

namespace h2o {
namespace {

constexpr WeightFormat kByteFormats[] = {WeightFormat::kFp8,
                                         WeightFormat::kInt8};

std::vector<float> RandomRow(int n, float scale, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> row(n);
  for (float& x : row) x = normal(random);
  return row;
}

float Most(const std::vector<float>& row) {
  float most = 0;
  for (const float x : row) most = std::max(most, std::fabs(x));
  return most;
}

TEST(WeightFormat, NamesRoundTrip) {
  for (int i = 0; i <= 5; ++i) {
    const auto format = static_cast<WeightFormat>(i);
    EXPECT_EQ(ParseWeightFormat(Name(format)), format);
  }
  EXPECT_EQ(ParseWeightFormat("auto"), std::nullopt);
  EXPECT_EQ(FormatOf(DType::kFloat16), WeightFormat::kFloat16);
  EXPECT_EQ(BitsOf(WeightFormat::kInt4), 4);
  EXPECT_EQ(BitsOf(WeightFormat::kBFloat16), 16);
}

TEST(Fp8Rows, TheGreatestMagnitudeBecomesTheGreatestCode) {
  const auto of = [](float most) {
    return Fp8ScaleOf(std::bit_cast<uint32_t>(most));
  };
  for (const float most : {1e-25f, 0.3f, 448.0f, 65504.0f, 3e38f}) {
    EXPECT_EQ(ToFp8(most * of(most).inverse), 0x7e) << most;
    EXPECT_NEAR(448 * of(most).scale, most, 1e-6f * most);
  }
  for (const float least : {0.0f, 1e-40f}) {
    EXPECT_EQ(ToFp8(least * of(least).inverse), 0);
    EXPECT_GT(of(least).scale, 0);
  }
  for (const float odd : {std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_TRUE(std::isnan(of(odd).scale));
  }
}

TEST(WeightCodes, EveryFp8CodeIsItsOwnNearest) {
  for (int code = 0; code < 256; ++code) {
    const float x = FromFp8(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(x));
      continue;
    }
    EXPECT_EQ(ToFp8(x), code) << x;
  }
  EXPECT_EQ(FromFp8(0x7e), 448);
  EXPECT_EQ(FromFp8(0x01), 0x1p-9f);
  EXPECT_EQ(FromFp8(0x08), 0x1p-6f);
  EXPECT_EQ(FromFp8(0x38), 1);
}

TEST(WeightCodes, OfScalesOfARowTheOneWithTheLeastErrorIsTaken) {
  const auto error = [](WeightFormat format, const std::vector<float>& row,
                        float scale) {
    std::vector<std::byte> codes(row.size());
    std::vector<float> back(row.size());
    EncodeRow(format, row, scale, codes.data());
    DecodeRow(format, codes.data(), scale, absl::MakeSpan(back));
    double sum = 0;
    for (size_t i = 0; i < row.size(); ++i) {
      sum += (back[i] - row[i]) * (back[i] - row[i]);
    }
    return sum;
  };
  for (const WeightFormat format : kByteFormats) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      std::vector<float> row = RandomRow(203, 0.02f, seed);
      row[seed] *= 200;  // others are subnormal beside it
      const float most = Most(row);
      const std::vector<float> scales = RowScalesToTry(format, most);
      EXPECT_EQ(scales[0], ScaleOf(format, most));
      EXPECT_LT(scales.back(), 2 * scales[0]);
      const double least = error(format, row, ScaleOfRow(format, row));
      for (const float scale : scales) {
        EXPECT_LE(least, 1.00001 * error(format, row, scale)) << scale;
      }
    }
    EXPECT_EQ(ScaleOfRow(format, std::vector<float>(8)), 1);
  }
}

TEST(WeightCodes, Fp8RoundsToTheNearestAndTiesToEven) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = FromFp8(static_cast<uint8_t>(code));
    const float high = FromFp8(static_cast<uint8_t>(code + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(ToFp8(middle), code % 2 == 0 ? code : code + 1) << middle;
    EXPECT_EQ(ToFp8(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(ToFp8(std::nextafter(middle, 1e9f)), code + 1);
    EXPECT_EQ(ToFp8(-middle), 0x80 | ToFp8(middle));
  }
  EXPECT_EQ(ToFp8(1e30f), 0x7e);
  EXPECT_EQ(ToFp8(-1e30f), 0xfe);
}

TEST(WeightCodes, RowsOfBytesAreOffByHalfAStep) {
  const std::vector<float> row = RandomRow(300, 0.02f, 1);
  for (const WeightFormat format : kByteFormats) {
    const float scale = ScaleOf(format, Most(row));
    std::vector<std::byte> codes(row.size());
    EncodeRow(format, row, scale, codes.data());
    std::vector<float> back(row.size());
    DecodeRow(format, codes.data(), scale, absl::MakeSpan(back));
    for (size_t i = 0; i < row.size(); ++i) {
      const float most =
          format == WeightFormat::kInt8
              ? scale / 2
              : std::max(std::fabs(row[i]) / 16, scale * 0x1p-10f);
      EXPECT_NEAR(back[i], row[i], most * 1.001f) << Name(format);
    }
  }
}

TEST(WeightCodes, Int4RowsAreOffByHalfAStepOfTheirGroup) {
  for (const int group : {64, 128}) {
    const std::vector<float> row = RandomRow(300, 0.02f, 2);
    std::vector<GroupScale> scales;
    for (size_t i = 0; i < row.size(); i += group) {
      scales.push_back(ScaleOfGroup(absl::MakeSpan(row).subspan(i, group)));
    }
    std::vector<std::byte> codes(row.size() / 2);
    EncodeInt4Row(row, group, scales.data(), codes.data());
    std::vector<float> back(row.size());
    DecodeInt4Row(codes.data(), group, scales.data(), absl::MakeSpan(back));
    for (size_t i = 0; i < row.size(); ++i) {
      const float step = FromBFloat16(scales[i / group].scale);
      // The ends may lie half a step of the zero point further out.
      EXPECT_NEAR(back[i], row[i], step * 1.05f);
    }
    double error = 0;
    for (size_t i = 0; i < row.size(); ++i)
      error += std::pow(back[i] - row[i], 2);
    EXPECT_LT(std::sqrt(error / row.size()), 0.02f / 8);
  }
}

TEST(WeightCodes, RowsOfZerosAndOfOneSignAreExactEnough) {
  const std::vector<float> zeros(64, 0.0f), ones(64, 0.5f);
  for (const WeightFormat format : kByteFormats) {
    EXPECT_EQ(ScaleOf(format, 0), 1);
  }
  for (const auto& row : {zeros, ones}) {
    const GroupScale scale = ScaleOfGroup(row);
    EXPECT_GT(FromBFloat16(scale.scale), 0);
    std::vector<std::byte> codes(32);
    EncodeInt4Row(row, 64, &scale, codes.data());
    std::vector<float> back(64);
    DecodeInt4Row(codes.data(), 64, &scale, absl::MakeSpan(back));
    for (const float x : back) EXPECT_NEAR(x, row[0], 0.003f);
  }
}

}  // namespace
}  // namespace h2o
