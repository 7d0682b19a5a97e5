// A linear layer for few rows: weights are read once, as they are stored, and
// widened to float32 in registers.  This is what decode runs: at one row it is
// bound by the memory that holds the weights.
//
// An output is one sum over the inputs in an order that does not depend on the
// number of rows, so a row's result is the same alone and in a batch, bit for
// bit.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace h2o::cpu {

// Outputs [begin, end) of y = epilogue(x W^T + bias).
void SmallLinear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                 int64_t begin, int64_t end, Matrix y);

// The greatest number of rows for which SmallLinear is the faster way in
// float32, as measured on AVX-512 (docs/performance.md).
inline constexpr int64_t kSmallRows = 64;

// Widens rows [begin, end) of `stored` to float32, scales included:
// out[(r - begin) * AlignedStride(columns)].
void WidenRows(const StoredMatrix& stored, int64_t begin, int64_t end,
               float* out);

// out[i] = x[i] rounded to bf16, n a multiple of kRowAlignment.
void RoundToBFloat16(const float* x, int64_t n, uint16_t* out);

// GELU with the error function, as Hugging Face's "gelu".
float Gelu(float x);

}  // namespace h2o::cpu
