// Attention of one head over the slots it stores: the CPU twin.
//
// head_dim must be a multiple of kHeadDimAlignment, at most kMaxHeadDim.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/backend.h"

namespace h2o {

inline constexpr int kHeadDimAlignment = 16;
inline constexpr int kMaxHeadDim = 256;

// One token at `position` of one head: q, k, v [head_dim], out [head_dim].
// Attends the stored slots and the token itself, adds the probabilities to the
// scores, and writes the token into a free slot or over the victim.
// `probabilities` is scratch of at least num_slots + 1 + kHeadDimAlignment.
// Returns the position given up, or -1.
int32_t DecodeHead(const float* q, const float* k, const float* v,
                   int32_t position, const KvPool& pool, KvHead* head,
                   float* probabilities, float* out);

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

// out[i] = position of slot i.
void CopyPositions(const KvPool& pool, const KvHead& head, uint16_t* out);

// x [columns] normalised as Backend::LayerNorm.
void LayerNormRow(const float* x, const LayerNormWeights& weights,
                  int64_t columns, float* out);

// The greatest of x[n], of equal ones the first.
int64_t ArgMaxRow(const float* x, int64_t n);

}  // namespace h2o
