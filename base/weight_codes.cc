// Rounds weights to codes, and reads codes.
#include "base/weight_codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace h2o {
namespace {

constexpr float kFp8Max = 448;

// What is left of a group's range on one side.
constexpr float kCuts[] = {1, 0.95f, 0.9f, 0.85f, 0.8f};

// The nearest integer, of two the even, for magnitudes below 2^22; unlike
// std::nearbyint it becomes vector instructions.
float Nearest(float x) {
  constexpr float kMagic = 0x1.8p23f;
  return (x + kMagic) - kMagic;
}

float SquaredError(absl::Span<const float> group, const GroupScale& scale) {
  const float step = FromBFloat16(scale.scale), zero = scale.zero;
  float sum = 0;
  for (const float x : group) {
    const float code = std::clamp(Nearest(x / step) + zero, 0.0f, 15.0f);
    const float error = (code - zero) * step - x;
    sum += error * error;
  }
  return sum;
}

uint8_t NibbleAt(const std::byte* codes, int64_t i) {
  const auto byte = static_cast<uint8_t>(codes[i / 2]);
  return i % 2 == 0 ? byte & 15 : byte >> 4;
}

// Over a nibble that is zero.
void PutNibble(std::byte* codes, int64_t i, int code) {
  codes[i / 2] |= static_cast<std::byte>(i % 2 == 0 ? code : code << 4);
}

}  // namespace

uint8_t ToFp8(float value) {
  const auto sign = static_cast<uint8_t>(std::signbit(value) ? 0x80 : 0);
  const float magnitude = std::min(std::fabs(value), kFp8Max);
  // The distance of neighbours: 2^-9 among subnormals, below 2^-6.
  const int exponent =
      magnitude < 0x1p-6f ? -6 : static_cast<int>(std::ilogb(magnitude));
  const float step = std::ldexp(1.0f, exponent - 3);
  const auto steps = static_cast<int>(std::nearbyint(magnitude / step));
  // Of a normal number 8 to 16; 16 carries into the exponent by itself.
  return sign | static_cast<uint8_t>(((exponent + 6) << 3) + steps);
}

float FromFp8(uint8_t code) {
  const int exponent = (code >> 3) & 15, fraction = code & 7;
  if ((code & 0x7f) == 0x7f) return std::bit_cast<float>(0x7fc00000u);
  const float magnitude =
      exponent == 0
          ? std::ldexp(static_cast<float>(fraction), -9)
          : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

float ScaleOf(WeightFormat format, float most) {
  if (most == 0) return 1;
  return most / (format == WeightFormat::kFp8 ? kFp8Max : 127);
}

GroupScale ScaleOfRange(float low, float high) {
  if (low == high) return {ToBFloat16(1), 0};
  GroupScale scale = {ToBFloat16((high - low) / 15), 0};
  const float step = FromBFloat16(scale.scale);
  scale.zero =
      static_cast<uint16_t>(std::clamp(Nearest(-low / step), 0.0f, 15.0f));
  return scale;
}

GroupScale ScaleOfGroup(absl::Span<const float> group) {
  float low = 0, high = 0;  // zero has a code
  for (const float x : group) {
    low = std::min(low, x);
    high = std::max(high, x);
  }
  GroupScale best;
  float least = std::numeric_limits<float>::infinity();
  for (const float of_low : kCuts) {
    for (const float of_high : kCuts) {
      const GroupScale scale = ScaleOfRange(of_low * low, of_high * high);
      const float error = SquaredError(group, scale);
      if (error < least) {
        least = error;
        best = scale;
      }
    }
  }
  return best;
}

void EncodeRow(WeightFormat format, absl::Span<const float> row, float scale,
               std::byte* codes) {
  const bool fp8 = format == WeightFormat::kFp8;
  for (size_t i = 0; i < row.size(); ++i) {
    const float x = row[i] / scale;
    codes[i] = fp8 ? static_cast<std::byte>(ToFp8(x))
                   : static_cast<std::byte>(static_cast<int8_t>(
                         std::clamp(std::nearbyint(x), -127.0f, 127.0f)));
  }
}

void DecodeRow(WeightFormat format, const std::byte* codes, float scale,
               absl::Span<float> row) {
  const bool fp8 = format == WeightFormat::kFp8;
  for (size_t i = 0; i < row.size(); ++i) {
    row[i] = scale * (fp8 ? FromFp8(static_cast<uint8_t>(codes[i]))
                          : static_cast<float>(static_cast<int8_t>(codes[i])));
  }
}

void EncodeInt4Row(absl::Span<const float> row, int group,
                   const GroupScale* scales, std::byte* codes) {
  std::fill_n(codes, (row.size() + 1) / 2, std::byte{0});
  for (size_t i = 0; i < row.size(); ++i) {
    const GroupScale& s = scales[i / group];
    const float code = std::nearbyint(row[i] / FromBFloat16(s.scale)) + s.zero;
    PutNibble(codes, static_cast<int64_t>(i),
              static_cast<int>(std::clamp(code, 0.0f, 15.0f)));
  }
}

void DecodeInt4Row(const std::byte* codes, int group, const GroupScale* scales,
                   absl::Span<float> row) {
  for (size_t i = 0; i < row.size(); ++i) {
    const GroupScale& s = scales[i / group];
    row[i] =
        static_cast<float>(NibbleAt(codes, static_cast<int64_t>(i)) - s.zero) *
        FromBFloat16(s.scale);
  }
}

}  // namespace h2o
