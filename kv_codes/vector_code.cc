// Encodes a vector with each of the eight scales and keeps the best.
#include "kv_codes/vector_code.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "base/head_dim.h"

namespace h2o {
namespace {

using Codes = std::array<uint8_t, kMaxHeadDim>;
using Terms = std::array<double, kMaxHeadDim>;

uint8_t CodeOf(float x, float gain, float scale, int bits) {
  const double most = (1 << bits) - 1;
  const double half = most / 2;
  const double code = std::floor(double{gain * x / scale} + half + 0.5);
  // A NaN has failed both comparisons.
  return code >= most ? static_cast<uint8_t>(most)
         : code > 0   ? static_cast<uint8_t>(code)
                      : 0;
}

// The sum of at most 128 terms: eight sums side by side, added in pairs.
// numpy.sum has this order.
double SumOfBlock(const double* terms, int n) {
  if (n < 8) {
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += terms[i];
    return sum;
  }
  double lanes[8];
  std::copy_n(terms, 8, lanes);
  int i = 8;
  for (; i + 8 <= n; i += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += terms[i + lane];
  }
  double sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
               ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  for (; i < n; ++i) sum += terms[i];
  return sum;
}

// The same of more: in two halves, the first a multiple of eight.
double SumOf(const double* terms, int n) {
  constexpr int kBlock = 128;
  if (n <= kBlock) return SumOfBlock(terms, n);
  const int half = n / 2 - n / 2 % 8;
  return SumOf(terms, half) + SumOf(terms + half, n - half);
}

double WeightedError(const VectorCode& code, absl::Span<const float> x,
                     const Codes& codes, double scale) {
  Terms terms;
  for (size_t i = 0; i < x.size(); ++i) {
    const double decoded = (codes[i] - ZeroOfCode(code.bits[i])) * scale;
    const double error = decoded - x[i];
    terms[i] = code.bits[i] == 0 ? 0 : error * error * code.weight[i];
  }
  return SumOf(terms.data(), static_cast<int>(x.size()));
}

}  // namespace

int Encode(const VectorCode& code, absl::Span<const float> x,
           absl::Span<uint8_t> codes) {
  H2O_CHECK(x.size() == code.bits.size() && x.size() <= kMaxHeadDim);
  int best = 0;
  double least = 0;
  for (int e = 0; e < kCodeScales; ++e) {
    Codes trial;
    const auto scale = static_cast<float>(kCodeScale[e]);
    for (size_t i = 0; i < x.size(); ++i) {
      trial[i] = CodeOf(x[i], code.gain[i], scale, code.bits[i]);
    }
    const double error = WeightedError(code, x, trial, kCodeScale[e]);
    if (e > 0 && !(error < least)) continue;
    best = e;
    least = error;
    std::copy_n(trial.begin(), x.size(), codes.begin());
  }
  return best;
}

void Decode(absl::Span<const uint8_t> bits, absl::Span<const uint8_t> codes,
            int e, absl::Span<float> x) {
  for (size_t i = 0; i < bits.size(); ++i) {
    const float steps = static_cast<float>(codes[i]) - ZeroOfCode(bits[i]);
    x[i] = static_cast<float>(steps * kCodeScale[e]);
  }
}

}  // namespace h2o
