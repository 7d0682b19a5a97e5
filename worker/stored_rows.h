// The rows of a weight, made from the tensor of a checkpoint that holds them:
// converted, widened, and checked.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/dtype.h"
#include "model/safetensors.h"
#include "model/weight_map.h"

namespace h2o {

// Row `r` of slice.num_rows() as `dtype`; the rest of its `row_bytes` is zero.
void FillStoredRow(const TensorSlice& slice, const StoredTensor& tensor,
                   DType dtype, int64_t r, int64_t row_bytes, std::byte* row);

// Whether `n` elements are neither NaN nor infinite; as fast as memory.
bool AllFinite(const std::byte* row, DType dtype, int64_t n);

// Names the element of row `r` for which AllFinite is false: DATA_LOSS if it is
// so in the file, FAILED_PRECONDITION if it is too large for `dtype`.
absl::Status NotFiniteError(const TensorSlice& slice,
                            const StoredTensor& tensor, DType dtype, int64_t r);

}  // namespace h2o
