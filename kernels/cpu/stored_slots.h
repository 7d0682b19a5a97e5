// The slots of one head in the pages of the KV cache, as the CPU kernels read
// and write them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv_head.h"

namespace h2o::cpu {

struct Slot {
  std::byte* page;
  int index;  // in the page
};

inline Slot SlotAt(const KvPool& pool, const KvHead& head, int32_t slot) {
  return {pool.Page(head.pages[slot / kPageSlots]), slot % kPageSlots};
}
inline float* Scores(const KvPool& pool, std::byte* page) {
  return reinterpret_cast<float*>(page + pool.layout.ScoresOffset());
}
inline uint16_t* Positions(const KvPool& pool, std::byte* page) {
  return reinterpret_cast<uint16_t*>(page + pool.layout.PositionsOffset());
}

// Writes one token into `slot`: k, v [head_dim], rounded to the pool's dtype.
void WriteSlot(const float* k, const float* v, float score, int32_t position,
               const KvPool& pool, Slot slot);

// out[i] = position of slot i.
void CopyPositions(const KvPool& pool, const KvHead& head, uint16_t* out);

}  // namespace h2o::cpu
