// The one function that sums in this folder.  It adds in rank order with one
// rounding for each addition, so every rank that computes an element gets the
// same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"

namespace h2o {

// Every out[j][0, count) becomes in[0] + in[1] + ..., left to right.
// An `out` may be one of `in`; otherwise they do not overlap.
inline void SumInRankOrder(absl::Span<const float* const> in,
                           absl::Span<float* const> out, int64_t count) {
  constexpr int64_t kBlock = 1024;  // 4 KiB: the partial sums stay in L1
  float sum[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    std::memcpy(sum, in[0] + begin, n * sizeof(float));
    for (size_t k = 1; k < in.size(); ++k) {
      const float* addend = in[k] + begin;
      for (int64_t i = 0; i < n; ++i) sum[i] += addend[i];
    }
    for (float* o : out) std::memcpy(o + begin, sum, n * sizeof(float));
  }
}

}  // namespace h2o
