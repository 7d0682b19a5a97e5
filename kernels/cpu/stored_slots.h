// The slots of one head in the pages of the KV cache, as the CPU kernels read
// and write them.
#pragma once

#include <cstdint>

#include "kernels/kv_head.h"

namespace h2o::cpu {

// The score of slot `slot`; those of the slots behind it in its page follow.
inline float* ScoreAt(const KvPool& pool, const KvHead& head, int32_t slot) {
  return reinterpret_cast<float*>(pool.PageOf(head, slot) +
                                  pool.Layout(head).ScoresOffset()) +
         slot % kPageSlots;
}
// The position of the token in slot `slot`; those behind it likewise.
inline uint16_t* PositionAt(const KvPool& pool, const KvHead& head,
                            int32_t slot) {
  return reinterpret_cast<uint16_t*>(pool.PageOf(head, slot) +
                                     pool.Layout(head).PositionsOffset()) +
         slot % kPageSlots;
}

// Writes one token into slot `slot`: k, v [head_dim], rounded to the head's
// format.
void WriteSlot(const float* k, const float* v, float score, int32_t position,
               const KvPool& pool, const KvHead& head, int32_t slot);

// out[i] = position of slot i.
void CopyPositions(const KvPool& pool, const KvHead& head, uint16_t* out);

}  // namespace h2o::cpu
