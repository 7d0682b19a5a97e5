// The number formats of weights, activations and the KV cache, and their
// conversion to and from float32.  Sums, scores, residuals and logits are
// float32 everywhere; GPUs multiply 16-bit numbers, CPUs bf16 ones if asked.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/check.h"

namespace h2o {

enum class DType : uint8_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

constexpr int SizeOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// The names of the command line and of the wire: float32, bf16, fp16.
constexpr std::string_view Name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bf16";
    case DType::kFloat16:
      return "fp16";
  }
  return "?";
}

constexpr std::optional<DType> ParseDType(std::string_view name) {
  for (DType d : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (name == Name(d)) return d;
  }
  return std::nullopt;
}

// bfloat16 is the upper half of a float32.  Rounds to nearest even; NaN stays
// NaN.
inline float FromBFloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
inline uint16_t ToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE binary16, through the compiler's own type (subnormals, infinities and
// NaN included; rounds to nearest even).
inline float FromFloat16(uint16_t bits) {
  return static_cast<float>(std::bit_cast<_Float16>(bits));
}
inline uint16_t ToFloat16(float value) {
  return std::bit_cast<uint16_t>(static_cast<_Float16>(value));
}

// Element `i` of an array of `dtype`, read or written one at a time: for
// loading, tests and references, not for kernels.
inline float LoadElement(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(data)[i];
    case DType::kBFloat16:
      return FromBFloat16(static_cast<const uint16_t*>(data)[i]);
    case DType::kFloat16:
      return FromFloat16(static_cast<const uint16_t*>(data)[i]);
  }
  H2O_CHECK(false) << "dtype";
  return 0;
}
inline void StoreElement(void* data, DType dtype, int64_t i, float value) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(data)[i] = value;
      return;
    case DType::kBFloat16:
      static_cast<uint16_t*>(data)[i] = ToBFloat16(value);
      return;
    case DType::kFloat16:
      static_cast<uint16_t*>(data)[i] = ToFloat16(value);
      return;
  }
}

}  // namespace h2o
