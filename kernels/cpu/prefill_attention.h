// Attention over whole prompts, on the CPU: softmax of tiles of scores, and the
// storing of the tokens that a policy keeps.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/kv_head.h"

namespace h2o {

// Turns scores[r][0 .. first_length + r) of `rows` rows into softmax(scale *
// score), zero from there to `columns`, and adds each row to column_sums
// (null: nobody needs them).
void CausalSoftmax(float* scores, int64_t rows, int64_t columns, int64_t stride,
                   int64_t first_length, float scale, float* column_sums);

// Fills the head's slots with the prompt's tokens `kept` (ascending).
// keys and values: row stride `stride`; scores may be null.
void StoreKept(absl::Span<const int32_t> kept, const float* keys,
               const float* values, int64_t stride, const float* scores,
               const KvPool& pool, KvHead* head);

}  // namespace h2o
