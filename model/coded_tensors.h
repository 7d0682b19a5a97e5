// The tensors of a checkpoint that hold one coded weight [outputs, inputs], and
// where a code or a zero point lies in them.
//
//   kPacked  X.weight_packed  I32 [outputs, inputs / 8], int8: / 4.  The first
//            code of a word is in its lowest bits.  An int4 code is stored as
//            it is, so a row has the bytes of ours (base/weight_codes.h); 128
//            is added to an int8 code. X.weight_scale  [outputs, groups]; int8:
//            [outputs, 1] X.weight_zero_point  I32 [outputs / 8, groups],
//            unless symmetric: a word has the zero points of 8 outputs
//            X.weight_shape  I64 [2]: outputs, inputs
//   kBytes   X.weight  I8 or F8_E4M3 [outputs, inputs]
//            X.weight_scale  [outputs, 1]
//   kGptq    X.qweight  I32 [inputs / 8, outputs]: a word has 8 inputs' codes
//            X.scales  F16 [groups, outputs]
//            X.qzeros  I32 [groups, outputs / 8]
//            X.g_idx  I32 [inputs]: each input's group, in order
//
// Where 8 or 4 does not divide a size, the last word has room left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/quantization_config.h"

namespace h2o {

// One tensor, as the header of a safetensors file describes it.
struct TensorForm {
  std::string name;  // empty: the layout has none
  // As the header spells it.  Scales are read as F32, BF16 or F16, and written
  // as this one.
  std::string_view dtype;
  std::vector<int64_t> shape;
};

struct CodedTensors {
  TensorForm codes, scales, zeros;
  TensorForm shape;        // holds the shape of the weight
  TensorForm input_group;  // holds the group of each input

  // Those that there are.
  std::vector<TensorForm> All() const;
};

// `name` is that of the plain weight: "X.weight".
// REQUIRES: a layout other than kNone.
CodedTensors CodedTensorsOf(const QuantizationConfig& config,
                            std::string_view name, int64_t outputs,
                            int64_t inputs);

// 4 bits of words of 32.
inline int NibbleOf(const uint32_t* words, int64_t word, int64_t nibble) {
  return static_cast<int>(words[word] >> (4 * nibble) & 15);
}

// The zero point of a group of `output`, in kPacked's words [outputs / 8]
// [groups].
inline int PackedZero(const uint32_t* words, int64_t groups, int64_t output,
                      int64_t group) {
  return NibbleOf(words, output / 8 * groups + group, output % 8);
}
// The same, over bits that are zero.  REQUIRES: `zero` is 0 to 15.
inline void PutPackedZero(uint32_t* words, int64_t groups, int64_t output,
                          int64_t group, int zero) {
  words[output / 8 * groups + group] |= static_cast<uint32_t>(zero)
                                        << (4 * (output % 8));
}

// Bytes of int8 codes as kPacked has them, from ours, or ours from those.
void FlipPackedInt8(const std::byte* from, int64_t n, std::byte* to);

}  // namespace h2o
