// Attention of one new token of each sequence over the slots that its heads
// store, on the CPU.  Operations are those of kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

// What DecodeAttention works in, a thread.
int64_t DecodeScratchFloats(int64_t max_slots);

// Weights are softmax(scale * q . k).
// REQUIRES: CheckCpuHeadDim (base/head_dim.h).
void DecodeAttention(Matrix qkv, const DecodeBatch& batch, int layer,
                     float scale, const KvPool& pool, Matrix out,
                     int32_t* evicted, Team* team);

void StoredPositions(const KvHead* heads, int count, const KvPool& pool,
                     int stride, uint16_t* out);

void CopyHeads(const KvHead* from, KvHead* to, int count, const KvPool& pool,
               Team* team);

}  // namespace h2o::cpu
