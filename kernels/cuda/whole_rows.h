// Rows of x as 16-bit whole numbers, for products with int4 codes.
//
// Tensor cores multiply whole numbers of 8 bits exactly.  A number of x becomes
// two of them, (256 high + low) * scale of its group: an error of at most
// 1/65278 of the group's greatest magnitude, below that of bf16 for numbers
// above a hundredth of it.  Then a code needs no conversion, only a mask.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"

namespace h2o::cuda {

// high is at most 127 then.
inline constexpr float kMostWholeNumber = 32639;

// Of a row and a group of inputs.
struct WholeGroup {
  int32_t sum;  // of its whole numbers
  // x = whole * scale.  NaN where x has a number that is not finite.
  float scale;
};

// Memory that rounded rows take.
struct WholeRows {
  // [2][room][inputs]: high, then low.  Input i of each 16 is at
  // 4 (i / 2 % 4) + 2 (i % 2) + i / 8: in this order a mask leaves their codes
  // in a word (coded_weights.cuh).
  int8_t* numbers = nullptr;
  WholeGroup* groups = nullptr;  // [inputs / group][room]

  static int64_t NumberBytes(int64_t room, int64_t inputs) {
    return 2 * room * inputs;
  }
  static int64_t GroupBytes(int64_t room, int64_t inputs) {
    constexpr int64_t kLeastGroup = 64;
    return room * inputs / kLeastGroup * int64_t{sizeof(WholeGroup)};
  }
};

// x [rows, inputs]; what is behind x_stride counts as zero.
struct RoundToWholeArgs {
  const void* x = nullptr;
  int64_t x_stride = 0;
  DType dtype = DType::kBFloat16;
  int rows = 0, room = 0;
  int64_t inputs = 0;  // a multiple of 128
  int group = 0;       // 64 or 128 inputs
  WholeRows out;
};
// Lets the next kernel start before it waits for the one in front.
cudaError_t RoundToWhole(const RoundToWholeArgs& args, cudaStream_t stream);

}  // namespace h2o::cuda
