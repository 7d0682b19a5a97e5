// What the attention kernels of any device see of the KV cache: plain pointers
// and numbers, in the memory of the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/kv_page.h"
#include "base/kv_slots.h"

namespace h2o {

// What one head of one sequence stores in one layer.  Slot i lies in page
// pages[i / kPageSlots] at i % kPageSlots.
struct alignas(16) KvHead {
  const int32_t* pages = nullptr;
  KvSlots slots;
  int32_t num_slots = 0;  // stored now; the attention kernels move it
};
static_assert(sizeof(KvHead) == 32);

struct KvPool {
  std::byte* data = nullptr;
  KvPageLayout layout;
  constexpr std::byte* Page(int32_t page) const {
    return data + page * layout.PageBytes();
  }
};

}  // namespace h2o
