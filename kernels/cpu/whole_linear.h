// Linear layers of few rows with int8 and int4 weights in whole numbers: x is
// rounded to 16 bits with a scale for each row, so that a weight needs no
// conversion, and two products are one instruction.  Half as many instructions
// as in float32, where a weight is widened first (small_linear.h).
//
// An error is at most 1/65534 of the row's greatest magnitude, less than bf16's
// of numbers above a hundredth of it.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace h2o::cpu {

inline constexpr float kMostWhole = 32767;

// One row of x; its greatest magnitude becomes kMostWhole.
struct WholeRow {
  float scale = 0;  // x = value * scale; NaN if x is not finite
  int16_t* values;  // [weight.stride]: int8 in order, int4 as the codes lie
  int32_t* sums;    // [weight.groups()] of int4: of values
};
// Bytes that the values and sums of a row of so many inputs take at most.
int64_t WholeRowBytes(int64_t inputs);

// Fills `row`, whose memory is WholeRowBytes at `memory`, aligned to vectors.
WholeRow RoundToWhole(const float* x, int64_t x_stride,
                      const StoredMatrix& weight, void* memory);

// Outputs [begin, end) of y = epilogue(x W^T + bias), of one row.
// REQUIRES: the weights are int8 or int4 (int4_linear.h).
void WholeLinear(const WholeRow& x, const LinearWeights& weights,
                 Epilogue epilogue, int64_t begin, int64_t end, float* y);

}  // namespace h2o::cpu
