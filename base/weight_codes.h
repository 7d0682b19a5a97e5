// Weights to codes and back, a row at a time, on the host: for loading, tests
// and references, not for kernels.
//
// Codes lie in order.  Of int4, input 2i is in the lower half of byte i and
// 2i + 1 in the upper one, as in the compressed-tensors layout of checkpoints.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/weight_format.h"

namespace h2o {

// A number as e4m3: the nearest one, of two the even; larger ones than 448
// become 448.  REQUIRES: `value` is no NaN.
uint8_t ToFp8(float value);
float FromFp8(uint8_t code);  // 0x7f and 0xff are NaN

// The scale of a row of fp8 or int8 codes whose largest magnitude is `most`:
// that becomes the largest code.
float ScaleOf(WeightFormat format, float most);
// Scales for such a row, the first of them ScaleOf.  Of fp8, 8 within an
// octave: where between two powers of two a number lies decides how well e4m3
// has it, and no octave is better than another.  Of int8 one.
std::vector<float> RowScalesToTry(WeightFormat format, float most);
// Of these the one with the least sum of squared errors.
float ScaleOfRow(WeightFormat format, absl::Span<const float> row);

// The scale and zero point that cover [low, high], which holds 0.
GroupScale ScaleOfRange(float low, float high);
// Those of ranges that cut up to a fifth off either end of a group's; the first
// cuts nothing.
inline constexpr int kScalesToTry = 25;
std::array<GroupScale, kScalesToTry> ScalesToTry(absl::Span<const float> group);
// Of these the one with the least sum of squared errors.  Wider searches gain
// nothing more (docs/decisions.md).
GroupScale ScaleOfGroup(absl::Span<const float> group);

// A byte a code; `scale` is of ScaleOf.
void EncodeRow(WeightFormat format, absl::Span<const float> row, float scale,
               std::byte* codes);
void DecodeRow(WeightFormat format, const std::byte* codes, float scale,
               absl::Span<float> row);

// Of int4: `scales` has CeilDiv(row.size(), group) elements, which must be set.
void EncodeInt4Row(absl::Span<const float> row, int group,
                   const GroupScale* scales, std::byte* codes);
void DecodeInt4Row(const std::byte* codes, int group, const GroupScale* scales,
                   absl::Span<float> row);

}  // namespace h2o
