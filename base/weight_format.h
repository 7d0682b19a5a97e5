// How the weights of a linear layer are stored.
//
//   float32, bf16, fp16   numbers (base/dtype.h)
//   fp8    e4m3 of Micikevicius et al., "FP8 formats for deep learning" (2022):
//          no infinities, at most 448; a float32 scale for each output
//   int8   -127 to 127; a float32 scale for each output
//   int4   0 to 15; a scale and a zero point for each group of inputs of an
//          output
//
//   weight = code * scale             fp8, int8
//   weight = (code - zero) * scale    int4
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/check.h"
#include "base/dtype.h"

namespace h2o {

enum class WeightFormat : uint8_t {
  kFloat32 = 0,
  kBFloat16 = 1,
  kFloat16 = 2,
  kFp8 = 3,
  kInt8 = 4,
  kInt4 = 5,
};

constexpr WeightFormat FormatOf(DType dtype) {
  return static_cast<WeightFormat>(dtype);
}
// Whether weights are numbers rather than codes.
constexpr bool IsPlain(WeightFormat format) {
  return format <= WeightFormat::kFloat16;
}
// REQUIRES: IsPlain(format).
constexpr DType DTypeOf(WeightFormat format) {
  H2O_CHECK(IsPlain(format));
  return static_cast<DType>(format);
}

constexpr int BitsOf(WeightFormat format) {
  if (IsPlain(format)) return 8 * SizeOf(DTypeOf(format));
  return format == WeightFormat::kInt4 ? 4 : 8;
}

// The names of the command line and of the wire.
constexpr std::string_view Name(WeightFormat format) {
  if (IsPlain(format)) return Name(DTypeOf(format));
  if (format == WeightFormat::kFp8) return "fp8";
  return format == WeightFormat::kInt8 ? "int8" : "int4";
}
constexpr std::optional<WeightFormat> ParseWeightFormat(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(WeightFormat::kInt4); ++i) {
    const auto format = static_cast<WeightFormat>(i);
    if (name == Name(format)) return format;
  }
  return std::nullopt;
}

// The scale of a group of int4 codes.
struct GroupScale {
  uint16_t scale = 0;  // bf16
  uint16_t zero = 0;   // 0 to 15
};

// A format, and of int4 how many inputs share a GroupScale: 64 or 128.
struct WeightCoding {
  WeightFormat format = WeightFormat::kFloat32;
  int group = 128;

  friend bool operator==(const WeightCoding&, const WeightCoding&) = default;
};

// Rows of codes begin at whole blocks of so many inputs.
inline constexpr int64_t kCodeBlock = 128;

}  // namespace h2o
