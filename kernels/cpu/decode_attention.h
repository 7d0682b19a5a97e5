// Attention of one new token over the slots that a head stores, on the CPU.
//
// head_dim must be a multiple of kHeadDimAlignment, at most kMaxHeadDim.
#pragma once

#include <cstdint>

#include "kernels/kv_head.h"

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

}  // namespace h2o
