// The codes of a weight's rows, made from numbers, and what a slice needs for
// that.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/weight_format.h"
#include "model/safetensors.h"
#include "model/weight_map.h"

namespace h2o {

// Bytes of the scales of one row of `columns` codes.
int64_t ScaleBytes(const WeightCoding& coding, int64_t columns);

// Groups of int4 begin and end with the slice, so that codes are the same for
// every number of ranks.  `stored`: the codes are the checkpoint's.
// Errors: INVALID_ARGUMENT with the numbers; UNIMPLEMENTED for heads that are
// widened.
absl::Status CheckCoded(const TensorSlice& slice, const WeightCoding& coding,
                        bool stored = false);

// The scale of fp8 or int8 codes of the tensor's row that has row `r` of the
// slice, from the whole row, also what is outside of the slice: all ranks scale
// a row alike.  Numbers that are not finite are left to the rank that has them.
float ScaleOfStoredRow(WeightFormat format, const TensorSlice& slice,
                       const StoredTensor& tensor, int64_t r);

// Codes and scales of a row of finite numbers, in order (base/weight_codes.h).
// `scale` is of fp8 and int8; groups of int4 have scales of their own.
void EncodeCodes(const WeightCoding& coding, absl::Span<const float> row,
                 float scale, std::byte* codes, std::byte* scales);

}  // namespace h2o
