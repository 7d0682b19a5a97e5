// Codes, scales and decoded numbers are numpy's to the bit.
#include "kv_codes/vector_code.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/kv_codes/golden.h"

namespace h2o {
namespace {

TEST(VectorCode, EncodesAndDecodesAsNumpy) {
  for (const std::string& name : Golden::Names()) {
    const Golden golden(name);
    for (const std::string kind : {"key", "value"}) {
      const VectorCode code = golden.Code(kind);
      const auto x = golden.Get<float>(kind + ".x");
      const auto codes = golden.Get<uint8_t>(kind + ".codes");
      const auto scales = golden.Get<uint8_t>(kind + ".scales");
      const auto decoded = golden.Get<float>(kind + ".decoded");
      const size_t d = code.bits.size();
      std::vector<uint8_t> made(d);
      std::vector<float> back(d);
      for (int slot = 0; slot < golden.slots(); ++slot) {
        SCOPED_TRACE(name + " " + kind + " " + std::to_string(slot));
        EXPECT_EQ(Encode(code, RowOf(x, slot, d), absl::MakeSpan(made)),
                  scales[slot]);
        EXPECT_EQ(absl::MakeConstSpan(made), RowOf(codes, slot, d));
        Decode(code.bits, made, scales[slot], absl::MakeSpan(back));
        EXPECT_EQ(absl::MakeConstSpan(back), RowOf(decoded, slot, d));
      }
    }
  }
}

// One channel of weight 1 and gain 1.
VectorCode OneChannel(uint8_t bits) { return {{bits}, {1}, {1}, 1}; }

struct EncodeCase {
  uint8_t bits;
  float x;
  int code, scale;  // that are expected
};

TEST(VectorCode, TableOfOneChannel) {
  const float infinity = std::numeric_limits<float>::infinity();
  const EncodeCase cases[] = {
      {0, 5, 0, 0},          // no bits: its mean, with the first of all scales
      {1, 0, 1, 0},          // 1 / 2 steps to either side: up
      {1, 0.5F, 1, 2},       // half a step of scale 1
      {1, -1, 0, 6},         // half a step of scale 2
      {1, -infinity, 0, 0},  // no scale is better than another
      {2, 1.5F, 3, 2},       // the last code
      {2, 3, 3, 6},          // with the double step
      {2, 100, 3, 7},        // outside of the range: the widest
      {8, 127.5F, 255, 2},   // the last of 256
      {8, -127.5F, 0, 2},   {3, NAN, 0, 0}, {3, infinity, 7, 0},
  };
  for (const EncodeCase& c : cases) {
    uint8_t code = 99;
    const int scale =
        Encode(OneChannel(c.bits), {&c.x, 1}, absl::MakeSpan(&code, 1));
    EXPECT_EQ(code, c.code) << int{c.bits} << " bits, " << c.x;
    EXPECT_EQ(scale, c.scale) << int{c.bits} << " bits, " << c.x;
  }
}

TEST(VectorCode, TheScaleIsTheWeightiestChannels) {
  // Channel 0 would like the least scale, channel 1 the greatest.
  const std::vector<float> x = {0.354F, 1.2F};
  std::vector<uint8_t> codes(2);
  VectorCode code{{1, 1}, {1, 1}, {1, 0.01F}, 1};
  EXPECT_EQ(Encode(code, x, absl::MakeSpan(codes)), 0);
  code.weight = {0.01F, 1};
  EXPECT_EQ(Encode(code, x, absl::MakeSpan(codes)), 7);
  EXPECT_EQ(codes, (std::vector<uint8_t>{1, 1}));
}

}  // namespace
}  // namespace h2o
