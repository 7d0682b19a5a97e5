// The one formula of KV memory.  The cache, admission and the usage report all
// ask here; there is no second one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/kv_page.h"
#include "base/kv_policy.h"
#include "parallel/shard_spec.h"

namespace h2o {

// Tokens a sequence will ever want to store: the last generated is not cached.
constexpr int64_t MaxStoredTokens(int64_t prompt_tokens, int64_t max_tokens) {
  return prompt_tokens + max_tokens - 1;
}

// Pages of one head: it never holds more than min(stored, capacity) slots.
constexpr int64_t PagesOfHead(int64_t capacity, int64_t max_stored_tokens) {
  return CeilDiv(std::min(capacity, max_stored_tokens), kPageSlots);
}

struct KvGeometry {
  int num_layers = 0;
  int num_heads = 0;  // of the whole model
  KvPageLayout page;

  int64_t PageBytes() const { return page.PageBytes(); }

  // Pages that one sequence costs the owner of `heads`.
  int64_t PagesNeeded(const KvPolicy& policy, int64_t max_stored_tokens,
                      Range heads) const {
    if (policy.slots.size() == 1) {
      return num_layers * heads.size() *
             PagesOfHead(policy.slots[0].Capacity(), max_stored_tokens);
    }
    int64_t pages = 0;
    for (int layer = 0; layer < num_layers; ++layer) {
      for (int64_t head = heads.begin; head < heads.end; ++head) {
        const KvSlots& slots =
            policy.At(layer, static_cast<int>(head), num_heads);
        pages += PagesOfHead(slots.Capacity(), max_stored_tokens);
      }
    }
    return pages;
  }

  friend bool operator==(const KvGeometry&, const KvGeometry&) = default;
};

}  // namespace h2o
