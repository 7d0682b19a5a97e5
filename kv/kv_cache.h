// A KvCache is what one rank remembers: the keys and values of every open
// sequence, for the heads this rank owns and for no others.
//
// Memory is one pool of pages (base/kv_page.h).  A sequence gets, when it is
// opened, all the pages it will ever hold; a full head makes room by itself,
// inside the attention kernel, so nothing here runs during a step.  Page tables
// lie beside the pool, in the memory of the device, one region a sequence.
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
#include "kernels/device.h"
#include "kernels/kv_head.h"
#include "kv/kv_geometry.h"

namespace h2o {

struct KvCacheOptions {
  KvGeometry geometry;
  Range heads;  // of the model
  int64_t num_pages = 0;
  int max_sequences = 0;      // open at once
  int64_t max_positions = 0;  // of a sequence
};

class KvCache {
 public:
  // Errors: RESOURCE_EXHAUSTED if the memory is not there.  `device` must
  // outlive the cache.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(
      const KvCacheOptions& options, Device* device);
  // What the page tables of a sequence take.
  static int64_t TableBytes(const KvCacheOptions& options);

  // Gives a sequence all the pages it will ever hold.
  // REQUIRES: `id` is not open.
  // Errors: RESOURCE_EXHAUSTED if fewer than geometry.PagesNeeded are free or
  // max_sequences are open.
  absl::Status Open(uint64_t id, const KvPolicy& policy,
                    int64_t max_stored_tokens);

  // Frees the sequence's pages: whoever is opened next may get them, after
  // what is enqueued already.  REQUIRES: `id` is open.
  void Close(uint64_t id);

  // The number, below max_sequences, of an open sequence.
  int Slot(uint64_t id) const;
  // Heads of an open sequence, [layers][heads().size()], on the device.
  KvHead* Heads(uint64_t id) const;

  const KvPool& pool() const { return pool_; }
  const KvGeometry& geometry() const { return options_.geometry; }
  Range heads() const { return options_.heads; }
  int64_t num_pages() const { return options_.num_pages; }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }

 private:
  struct Sequence {
    int slot = 0;
    std::vector<int32_t> pages;  // of all layers and heads, in their order
  };

  KvCache(const KvCacheOptions& options, Device* device, Buffer pages,
          Buffer tables);
  KvHead* HeadsOf(int slot) const;

  const KvCacheOptions options_;
  Device* const device_;
  const Buffer memory_;
  const Buffer tables_;  // [max_sequences]: heads, then page numbers
  const KvPool pool_;
  std::vector<int32_t> free_;    // pages, a stack
  std::vector<int> free_slots_;  // likewise
  std::unordered_map<uint64_t, Sequence> sequences_;
};

}  // namespace h2o
