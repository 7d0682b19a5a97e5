// Counts the pages, slabs and bytes of the KV cache.
#include "kv/kv_geometry.h"

namespace h2o {

void SlabFill::AddMany(int64_t count, int64_t page_bytes) {
  const int64_t fit = std::min(count, (slab_bytes_ - used_) / page_bytes);
  used_ += fit * page_bytes;
  count -= fit;
  if (count == 0) return;
  const int64_t of_slab = slab_bytes_ / page_bytes;
  slabs_ += CeilDiv(count, of_slab);
  used_ = ((count - 1) % of_slab + 1) * page_bytes;
}

int64_t KvGeometry::SmallestPageBytes() const {
  int64_t bytes = PageBytes(formats[0]);
  for (const KvFormat& f : formats) bytes = std::min(bytes, PageBytes(f));
  return bytes;
}

int64_t KvGeometry::LargestPageBytes() const {
  int64_t bytes = PageBytes(formats[0]);
  for (const KvFormat& f : formats) bytes = std::max(bytes, PageBytes(f));
  return bytes;
}

int64_t KvGeometry::SlabBytes() const {
  const int64_t largest = LargestPageBytes();
  return SmallestPageBytes() == largest ? largest : kSlabPages * largest;
}

const char* KvGeometry::SlabsName() const {
  return SmallestPageBytes() == LargestPageBytes() ? "pages" : "slabs";
}

int64_t KvGeometry::SlabsNeeded(const KvPolicy& policy,
                                int64_t max_stored_tokens, Range heads) const {
  if (formats.size() == 1 && policy.slots.size() == 1) {
    return num_layers * heads.size() *
           PagesOfHead(policy.slots[0].Capacity(), max_stored_tokens);
  }
  SlabFill fill(SlabBytes());
  for (int layer = 0; layer < num_layers; ++layer) {
    for (int64_t head = heads.begin; head < heads.end; ++head) {
      const KvSlots& slots =
          policy.At(layer, static_cast<int>(head), num_heads);
      fill.AddMany(PagesOfHead(slots.Capacity(), max_stored_tokens),
                   PageBytes(FormatOf(layer, head)));
    }
  }
  return fill.slabs();
}

}  // namespace h2o
