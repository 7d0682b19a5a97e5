// A KvCache is what one rank remembers: the keys and values of every open
// sequence, for the heads this rank owns and for no others.
//
// Memory is one pool of pages (base/kv_page.h).  A sequence gets, when it is
// opened, all the pages it will ever hold; a full head makes room by itself,
// inside the attention kernel, so nothing here runs during a step.
//
// Threads  one owner, the step thread of ShardRunner.
// Errors   only Create and Open can fail; a wrong id CHECK-fails.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kv/kv_geometry.h"

namespace h2o {

class KvCache {
 public:
  // A cache for the model's heads [heads.begin, heads.end) with a pool of
  // `num_pages` pages.  Errors: RESOURCE_EXHAUSTED if the memory is not there.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(
      const KvGeometry& geometry, Range heads, int64_t num_pages);

  // Gives a sequence all the pages it will ever hold.
  // REQUIRES: `id` is not open.
  // Errors: RESOURCE_EXHAUSTED if fewer than geometry.PagesNeeded are free.
  absl::Status Open(uint64_t id, const KvPolicy& policy,
                    int64_t max_stored_tokens);

  // Frees the sequence's pages.  REQUIRES: `id` is open.
  void Close(uint64_t id);

  // The heads of one layer of an open sequence, an array of heads().size().
  KvHead* Heads(uint64_t id, int layer);

  // Positions that a head stores now, ascending.
  std::vector<int32_t> StoredPositions(const KvHead& head) const;

  const KvPool& pool() const { return pool_; }
  const KvGeometry& geometry() const { return geometry_; }
  Range heads() const { return heads_; }
  int64_t num_pages() const { return num_pages_; }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }

 private:
  struct Sequence {
    std::vector<int32_t> pages;  // of all layers and heads, in their order
    std::vector<KvHead> heads;   // [layer][head]
  };

  KvCache(const KvGeometry& geometry, Range heads, int64_t num_pages,
          Buffer memory);

  const KvGeometry geometry_;
  const Range heads_;
  const int64_t num_pages_;
  const Buffer memory_;
  const KvPool pool_;
  std::vector<int32_t> free_;  // a stack
  std::unordered_map<uint64_t, Sequence> sequences_;
};

}  // namespace h2o
