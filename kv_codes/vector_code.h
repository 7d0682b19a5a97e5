// How a head's keys or its values become codes, and codes numbers.
//
// The input is a vector x in the coded basis: the map that calibration found
// is folded into the weights, so the model's own products give x.  With b bits
// for a channel and h = (2^b - 1) / 2,
//
//   code     c = clip(floor(gain * x / scale + h + 1/2), 0, 2^b - 1)
//   decoded  (c - h) * scale
//   scale    2^((e - 2) / 4), e = 0 to 7: one for each slot's key, and one for
//            its value, so that an outlier does not leave the range
//
// A channel without bits is decoded as 0, its mean.  The encoder takes the e
// with the least sum of weight * (decoded - x)^2, of equal ones the smallest.
//
// Arithmetic  gain * x and its division by the scale round to float32; then h
//             and 1/2 are added, in this order, and errors are computed in
//             float64.  Errors are summed in a fixed order.  So codes are the
//             same on every machine.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kv_codes/code_fields.h"

namespace h2o {

inline constexpr int kCodeScales = 8;
// 2^((e - 2) / 4)
inline constexpr double kCodeScale[kCodeScales] = {
    0x1.6a09e667f3bcdp-1, 0x1.ae89f995ad3adp-1, 1, 0x1.306fe0a31b715p+0,
    0x1.6a09e667f3bcdp+0, 0x1.ae89f995ad3adp+0, 2, 0x1.306fe0a31b715p+1};

// How the keys, or the values, of one head are coded; one entry a channel.
struct VectorCode {
  std::vector<uint8_t> bits;  // 0 to kMaxCodeBits
  std::vector<float> gain;    // the encoder's step over the decoder's
  std::vector<float> weight;  // importance of a squared error
  int words = 0;              // of a vector; sum of bits <= 32 * words

  int head_dim() const { return static_cast<int>(bits.size()); }
};

// h: the code that would stand for 0.
constexpr float ZeroOfCode(int bits) {
  return 0.5F * static_cast<float>((1 << bits) - 1);
}

// Writes one code for each channel of `x` and returns e.  A NaN has the
// smallest code.
int Encode(const VectorCode& code, absl::Span<const float> x,
           absl::Span<uint8_t> codes);

// The nearest float32 of (c - h) * scale.
void Decode(absl::Span<const uint8_t> bits, absl::Span<const uint8_t> codes,
            int e, absl::Span<float> x);

}  // namespace h2o
