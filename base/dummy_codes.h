// Codes of dummy weights: random bits, the same on every machine, for every
// number of ranks, and for CPUs and GPUs.
#pragma once

#include <cstdint>

#include "base/host_device.h"
#include "base/sampling.h"
#include "base/weight_format.h"

namespace h2o {

// Of a 32-bit word of random bits, the codes; what is no code becomes 0: NaN of
// fp8, -128 of int8.
H2O_HOST_DEVICE inline uint32_t CodesOfBits(WeightFormat format,
                                            uint32_t bits) {
  if (format == WeightFormat::kInt4) return bits;
  uint32_t codes = 0;
  for (int at = 0; at < 32; at += 8) {
    const uint32_t code = bits >> at & 0xff;
    const bool none = format == WeightFormat::kFp8 ? (code & 0x7f) == 0x7f
                                                   : code == 0x80;
    if (!none) codes |= code << at;
  }
  return codes;
}

// Word w of a tensor's codes, which are in order, the first in the lowest bits:
// lane w % 4 of CounterRandom(seed, w / 4, stream).
H2O_HOST_DEVICE inline uint32_t DummyWord(WeightFormat format, uint64_t seed,
                                          uint64_t stream, uint64_t w) {
  return CodesOfBits(format, CounterRandom(seed, w / 4, stream)[w % 4]);
}

// The scale with which such codes have a standard deviation of 1.
inline float UnitScale(WeightFormat format) {
  if (format == WeightFormat::kFp8) return 1 / 99.666f;
  return 1 / (format == WeightFormat::kInt8 ? 73.468f : 4.637f);
}
inline constexpr uint16_t kDummyZero = 8;  // of int4

}  // namespace h2o
