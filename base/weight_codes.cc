// Rounds weights to codes, and reads codes.
#include "base/weight_codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

namespace h2o {
namespace {

constexpr float kFp8Max = 448;
constexpr int kFp8ScalesToTry = 8;
// Bits of floats from one e4m3 number to the next, and the first normal number
// of e4m3 in those steps, less its code.
constexpr uint32_t kFloatsOfFp8 = 1 << 20;
constexpr uint32_t kFp8Rebias = (127 - 7) << 3;

// What is left of a group's range on one side.
constexpr float kCuts[] = {1, 0.95f, 0.9f, 0.85f, 0.8f};
static_assert(std::size(kCuts) * std::size(kCuts) == kScalesToTry);

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

// The e4m3 number nearest to x, whose magnitude is at most kFp8Max.
float NearestFp8(float x) {
  constexpr float kSubnormals = 0x1.8p14f;  // floats there are 2^-9 apart
  const float subnormal = (x + kSubnormals) - kSubnormals;
  uint32_t bits = std::bit_cast<uint32_t>(x);
  bits += (kFloatsOfFp8 >> 1) - 1 + (bits / kFloatsOfFp8 & 1);
  const float normal = std::bit_cast<float>(bits & ~(kFloatsOfFp8 - 1));
  return std::fabs(x) < 0x1p-6f ? subnormal : normal;
}

// In sums side by side, which become vector instructions.
float SquaredErrorOfFp8(absl::Span<const float> row, float scale) {
  constexpr size_t kSums = 16;
  float sums[kSums] = {};
  const auto add = [&](float x, float* sum) {
    const float error = NearestFp8(x / scale) * scale - x;
    *sum += error * error;
  };
  const size_t whole = row.size() / kSums * kSums;
  for (size_t i = 0; i < whole; i += kSums) {
    for (size_t j = 0; j < kSums; ++j) add(row[i + j], &sums[j]);
  }
  for (size_t i = whole; i < row.size(); ++i) add(row[i], &sums[0]);
  return std::accumulate(std::begin(sums), std::end(sums), 0.0f);
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
  const uint32_t sign = std::bit_cast<uint32_t>(value) >> 24 & 0x80;
  const float magnitude = std::min(std::fabs(value), kFp8Max);
  if (magnitude < 0x1p-6f) {  // subnormals are 2^-9 apart; 8 carries
    return static_cast<uint8_t>(
        sign + static_cast<uint32_t>(Nearest(magnitude * 512)));
  }
  // Of a float's fraction 3 bits stay; what is rounded up may carry into the
  // exponent.
  uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  bits += (kFloatsOfFp8 >> 1) - 1 + (bits / kFloatsOfFp8 & 1);
  return static_cast<uint8_t>(sign + bits / kFloatsOfFp8 - kFp8Rebias);
}

float FromFp8(uint8_t code) {
  const uint32_t magnitude = code & 0x7f;
  if (magnitude == 0x7f) return std::bit_cast<float>(0x7fc00000u);
  const float value =
      magnitude < 8
          ? static_cast<float>(magnitude) * 0x1p-9f
          : std::bit_cast<float>((magnitude + kFp8Rebias) * kFloatsOfFp8);
  return (code & 0x80) != 0 ? -value : value;
}

float ScaleOf(WeightFormat format, float most) {
  if (most == 0) return 1;
  return most / (format == WeightFormat::kFp8 ? kFp8Max : 127);
}

std::vector<float> RowScalesToTry(WeightFormat format, float most) {
  const float scale = ScaleOf(format, most);
  if (format != WeightFormat::kFp8) return {scale};
  std::vector<float> scales;
  for (int i = 0; i < kFp8ScalesToTry; ++i) {
    scales.push_back(scale *
                     std::exp2(static_cast<float>(i) / kFp8ScalesToTry));
  }
  return scales;
}

float ScaleOfRow(WeightFormat format, absl::Span<const float> row) {
  float most = 0;
  for (const float x : row) most = std::max(most, std::fabs(x));
  const std::vector<float> scales = RowScalesToTry(format, most);
  float best = scales[0];
  float least = std::numeric_limits<float>::infinity();
  for (const float scale : scales) {
    if (scales.size() == 1) break;
    const float error = SquaredErrorOfFp8(row, scale);
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

GroupScale ScaleOfRange(float low, float high) {
  if (low == high) return {ToBFloat16(1), 0};
  GroupScale scale = {ToBFloat16((high - low) / 15), 0};
  const float step = FromBFloat16(scale.scale);
  scale.zero =
      static_cast<uint16_t>(std::clamp(Nearest(-low / step), 0.0f, 15.0f));
  return scale;
}

std::array<GroupScale, kScalesToTry> ScalesToTry(
    absl::Span<const float> group) {
  float low = 0, high = 0;  // zero has a code
  for (const float x : group) {
    low = std::min(low, x);
    high = std::max(high, x);
  }
  std::array<GroupScale, kScalesToTry> scales;
  auto next = scales.begin();
  for (const float of_low : kCuts) {
    for (const float of_high : kCuts) {
      *next++ = ScaleOfRange(of_low * low, of_high * high);
    }
  }
  return scales;
}

GroupScale ScaleOfGroup(absl::Span<const float> group) {
  GroupScale best;
  float least = std::numeric_limits<float>::infinity();
  for (const GroupScale& scale : ScalesToTry(group)) {
    const float error = SquaredError(group, scale);
    if (error < least) {
      least = error;
      best = scale;
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
