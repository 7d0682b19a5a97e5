// Scores of 8 bits: how much attention a token has received so far, on a
// logarithmic scale.
//
//   score s means 2^((s - 160) / 8):   2^-20 for 0, about 3,756 for 255
//
// A sum between two of these numbers becomes either of them by chance, the
// nearer one more likely, so that the mean of the outcomes is the sum.  The
// chance is a pure function of sequence, layer, head, position and step: a
// token's score does not depend on the device, the number of ranks or the
// batch, and a replayed sequence keeps what it kept.
//
// All comparisons are of integers, so CPUs and GPUs agree to the bit.
#pragma once

#include <bit>
#include <cstdint>

#include "base/sampling.h"

namespace h2o {
namespace coded_score_internal {

inline constexpr int kMantissaBits = 23;  // of float32
inline constexpr int kExponentBias = 127;
inline constexpr int kLeastExponent = -20;  // of score 0
inline constexpr int kGreatest = 255;

// The mantissa of the float32 next to 2^(i / 8); i = 8 is 2.
constexpr uint32_t EighthPower(int i) {
  const uint32_t mantissas[] = {0x000000, 0x0b95c2, 0x1837f0,
                                0x25fed7, 0x3504f3, 0x45672a,
                                0x5744fd, 0x6ac0c7, 1 << kMantissaBits};
  return mantissas[i];
}

}  // namespace coded_score_internal

// What a score means, as float32.
constexpr float ScoreValue(uint8_t score) {
  using namespace coded_score_internal;
  const uint32_t exponent = score / 8 + kLeastExponent + kExponentBias;
  return std::bit_cast<float>(exponent << kMantissaBits |
                              EighthPower(score % 8));
}

// `sum` as a score, up or down by `random`, which is uniform over 32 bits.
// Sums below 2^-20 become 0, and those above the greatest become 255.
// REQUIRES: sum >= 0.
constexpr uint8_t RoundScore(float sum, uint32_t random) {
  using namespace coded_score_internal;
  const auto bits = std::bit_cast<uint32_t>(sum);
  const int exponent = static_cast<int>(bits >> kMantissaBits) - kExponentBias;
  const uint32_t mantissa = bits & ((1u << kMantissaBits) - 1);
  if (exponent < kLeastExponent) return 0;
  int eighth = 0;
  while (mantissa >= EighthPower(eighth + 1)) ++eighth;
  const int below = 8 * (exponent - kLeastExponent) + eighth;
  if (below >= kGreatest) return kGreatest;
  const uint64_t gap = EighthPower(eighth + 1) - EighthPower(eighth);
  const bool up = (random * gap) >> 32 < mantissa - EighthPower(eighth);
  return static_cast<uint8_t>(below + (up ? 1 : 0));
}

// A token that received `probability` more.
constexpr uint8_t AddToScore(uint8_t score, float probability,
                             uint32_t random) {
  return RoundScore(ScoreValue(score) + probability, random);
}

// The random numbers of all slots of one head in one step.  `sequence` is a
// number that the sequence has wherever and whenever it runs; `step` is the
// position of the query whose attention is added.
H2O_HOST_DEVICE inline uint32_t ScoreKey(uint64_t sequence, uint32_t layer,
                                         uint32_t head, uint32_t step) {
  return CounterRandom(sequence, uint64_t{layer} << 32 | head, step)[0];
}
// That of the slot of `position`.  The mixing is the last step of MurmurHash3
// (Austin Appleby, public domain): every bit of the input changes half of the
// output's.
constexpr uint32_t ScoreRandom(uint32_t key, uint32_t position) {
  uint32_t h = key ^ position;
  h = (h ^ h >> 16) * 0x85ebca6bU;
  h = (h ^ h >> 13) * 0xc2b2ae35U;
  return h ^ h >> 16;
}

}  // namespace h2o
