// The one formula of KV memory: the cache, admission and the usage report all
// ask here.
//
// The pool of a rank is one arena, cut into slabs of one size.  A sequence gets
// whole slabs when it is opened and gives them back when it is closed; in
// between its pages lie in them one behind the other, whatever their sizes.
// Hence a free slab serves any sequence, nothing fragments, and a sequence can
// be opened if and only if SlabsNeeded are free, whatever was opened and closed
// before.
//
// If all pages have one size, a slab is a page and nothing is wasted.
// Otherwise a slab is as large as kSlabPages of the largest pages.  Then the
// gaps at the ends of slabs waste less than 1 part in kSlabPages, and a
// sequence leaves part of its last slab empty.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/kv_page.h"
#include "base/kv_policy.h"
#include "parallel/shard_spec.h"

namespace h2o {

inline constexpr int kSlabPages = 16;

// Tokens a sequence will ever want to store: the last generated is not cached.
constexpr int64_t MaxStoredTokens(int64_t prompt_tokens, int64_t max_tokens) {
  return prompt_tokens + max_tokens - 1;
}

// Pages of one head: it never holds more than min(stored, capacity) slots.
constexpr int64_t PagesOfHead(int64_t capacity, int64_t max_stored_tokens) {
  return CeilDiv(std::min(capacity, max_stored_tokens), kPageSlots);
}

// Lays pages one behind the other into slabs.  A page lies in one slab.
class SlabFill {
 public:
  explicit SlabFill(int64_t slab_bytes)
      : slab_bytes_(slab_bytes), used_(slab_bytes) {}

  // Lays one more page.  Returns where it starts in the last slab.
  // REQUIRES: page_bytes is at most a slab.
  int64_t Add(int64_t page_bytes) {
    if (used_ + page_bytes > slab_bytes_) {
      ++slabs_;
      used_ = 0;
    }
    used_ += page_bytes;
    return used_ - page_bytes;
  }
  // The same `count` times.
  void AddMany(int64_t count, int64_t page_bytes);

  int64_t slabs() const { return slabs_; }

 private:
  const int64_t slab_bytes_;
  int64_t slabs_ = 0;
  int64_t used_;  // bytes of the last slab
};

struct KvGeometry {
  int num_layers = 0;
  int num_heads = 0;  // of keys and values, of the whole model
  int head_dim = 0;
  std::vector<KvFormat> formats;  // one of all heads, or [layers][heads]

  const KvFormat& FormatOf(int layer, int64_t head) const {
    return formats.size() == 1
               ? formats[0]
               : formats[static_cast<size_t>(layer) * num_heads + head];
  }
  int64_t PageBytes(const KvFormat& format) const {
    return KvPageLayout{head_dim, format}.PageBytes();
  }
  int64_t SmallestPageBytes() const;
  int64_t LargestPageBytes() const;

  int64_t SlabBytes() const;
  // The word for slabs in messages: "pages" if a slab is a page, else "slabs".
  const char* SlabsName() const;

  // Slabs that one sequence costs the owner of `heads`.
  int64_t SlabsNeeded(const KvPolicy& policy, int64_t max_stored_tokens,
                      Range heads) const;

  friend bool operator==(const KvGeometry&, const KvGeometry&) = default;
};

}  // namespace h2o
