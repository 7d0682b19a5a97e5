// How the attention kernels of any device see the KV cache: plain pointers and
// numbers, in the memory of the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/kv_page.h"
#include "base/kv_slots.h"

namespace h2o {

// What one head of one sequence stores in one layer.
struct alignas(16) KvHead {
  uint32_t table = 0;  // its page table starts at KvPool::tables[table]
  KvFormat format;     // of all its pages
  KvSlots slots;
  int32_t num_slots = 0;  // stored now; the attention kernels move it
};
static_assert(sizeof(KvHead) == 32);

struct KvPool {
  std::byte* data = nullptr;
  const uint32_t* tables = nullptr;  // numbers of pages, all heads'
  int head_dim = 0;

  constexpr std::byte* Page(uint32_t number) const {
    return data + int64_t{number} * kLineBytes;
  }
  // The page of slot `slot`, which is the page's slot % kPageSlots.
  constexpr std::byte* PageOf(const KvHead& head, int32_t slot) const {
    return Page(tables[head.table + slot / kPageSlots]);
  }
  constexpr KvPageLayout Layout(const KvHead& head) const {
    return {head_dim, head.format};
  }
};

}  // namespace h2o
