// Rows of activations as e4m3 codes (base/weight_format.h), one scale a row:
// number = code * scale.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace h2o {

struct Fp8RowScale {
  float scale = 1;
  float inverse = 1;  // a code is the e4m3 number nearest to number * inverse
};

// Of a row whose greatest magnitude has these bits as a float: it becomes the
// greatest code, 448.  Such bits have the order of the magnitudes, NaN behind
// infinity.  A row that is not finite gets the scale NaN, so that nothing
// finite comes of it.
H2O_HOST_DEVICE inline Fp8RowScale Fp8ScaleOf(uint32_t most_bits) {
  constexpr float kMost = 448;
  constexpr float kLeast = 0x1p-100f;  // so that no quotient overflows
  if (most_bits >= 0x7f800000u) return {__builtin_nanf(""), 1};
  float most = __builtin_bit_cast(float, most_bits);
  if (most < kLeast) most = kLeast;
  return {most / kMost, kMost / most};
}

}  // namespace h2o
