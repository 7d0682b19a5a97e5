// Writing a token into a slot of the KV cache, and reading back the positions.
#include "kernels/cpu/stored_slots.h"

#include <cstring>

#include "base/dtype.h"

namespace h2o::cpu {
namespace {

void StoreRow(const float* x, int n, DType dtype, std::byte* run, int index) {
  if (dtype == DType::kFloat32) {
    std::memcpy(reinterpret_cast<float*>(run) + index * n, x,
                n * sizeof(float));
    return;
  }
  for (int i = 0; i < n; ++i) StoreElement(run, dtype, index * n + i, x[i]);
}

}  // namespace

void WriteSlot(const float* k, const float* v, float score, int32_t position,
               const KvPool& pool, Slot slot) {
  const KvPageLayout& layout = pool.layout;
  StoreRow(k, layout.head_dim, layout.dtype, slot.page + layout.KeysOffset(),
           slot.index);
  StoreRow(v, layout.head_dim, layout.dtype, slot.page + layout.ValuesOffset(),
           slot.index);
  Scores(pool, slot.page)[slot.index] = score;
  Positions(pool, slot.page)[slot.index] = static_cast<uint16_t>(position);
}

void CopyPositions(const KvPool& pool, const KvHead& head, uint16_t* out) {
  for (int32_t slot = 0; slot < head.num_slots; ++slot) {
    const Slot at = SlotAt(pool, head, slot);
    out[slot] = Positions(pool, at.page)[at.index];
  }
}

}  // namespace h2o::cpu
