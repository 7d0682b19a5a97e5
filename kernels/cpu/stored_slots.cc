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
               const KvPool& pool, const KvHead& head, int32_t slot) {
  const KvPageLayout layout = pool.Layout(head);
  std::byte* const page = pool.PageOf(head, slot);
  const int at = slot % kPageSlots;
  StoreRow(k, pool.head_dim, head.format.dtype, page + layout.KeysOffset(), at);
  StoreRow(v, pool.head_dim, head.format.dtype, page + layout.ValuesOffset(),
           at);
  *ScoreAt(pool, head, slot) = score;
  *PositionAt(pool, head, slot) = static_cast<uint16_t>(position);
}

void CopyPositions(const KvPool& pool, const KvHead& head, uint16_t* out) {
  for (int32_t slot = 0; slot < head.num_slots; ++slot) {
    out[slot] = *PositionAt(pool, head, slot);
  }
}

}  // namespace h2o::cpu
