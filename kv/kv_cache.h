// A KvCache holds the keys and values of every open sequence, for the heads of
// one rank.
//
// Memory is one pool, cut into slabs (kv_geometry.h) that hold pages
// (base/kv_page.h).  A sequence gets, when it is opened, all the pages it will
// ever hold: a full head makes room inside the attention kernel, so nothing
// here runs during a step.  Page tables lie beside the pool, in the memory of
// the device, one region for each seat.
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
  int64_t num_slabs = 0;
  int max_sequences = 0;      // open at once
  int64_t max_positions = 0;  // of a sequence
};

class KvCache {
 public:
  // Errors: INVALID_ARGUMENT for a pool of no slab or more than kMaxPoolBytes,
  // RESOURCE_EXHAUSTED if the memory is not there.  `device` must outlive the
  // cache.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(
      const KvCacheOptions& options, Device* device);
  // Bytes of the page tables of one sequence.
  static int64_t TableBytes(const KvCacheOptions& options);

  // Gives a sequence all the pages it will ever hold.
  // REQUIRES: `id` is not open.
  // Errors: RESOURCE_EXHAUSTED if and only if fewer than geometry.SlabsNeeded
  // are free or max_sequences are open.
  absl::Status Open(uint64_t id, const KvPolicy& policy,
                    int64_t max_stored_tokens);

  // Frees the sequence's slabs.  A sequence opened later may get them: its
  // writes are enqueued behind everything that is enqueued already.
  // REQUIRES: `id` is open.
  void Close(uint64_t id);

  // An open sequence's place among the device's entries of sequences, below
  // max_sequences.
  int Seat(uint64_t id) const;
  // Heads of an open sequence, [layers][heads().size()], on the device.
  KvHead* Heads(uint64_t id) const;

  const KvPool& pool() const { return pool_; }
  const KvGeometry& geometry() const { return options_.geometry; }
  Range heads() const { return options_.heads; }
  int64_t num_slabs() const { return options_.num_slabs; }
  int64_t free_slabs() const {
    return static_cast<int64_t>(free_slabs_.size());
  }

 private:
  struct Holding {
    int seat = 0;
    std::vector<int32_t> slabs;
  };

  KvCache(const KvCacheOptions& options, Device* device, Buffer memory,
          Buffer tables);
  KvHead* HeadsOf(int seat) const;
  // Writes the heads and page tables of a sequence.
  void UploadTables(const Holding& holding, const KvPolicy& policy,
                    int64_t max_stored_tokens);

  const KvCacheOptions options_;
  const int64_t slab_bytes_;
  Device* const device_;
  const Buffer memory_;
  const Buffer tables_;  // [max_sequences]: heads, then page numbers
  const KvPool pool_;
  std::vector<int32_t> free_slabs_;  // a stack
  std::vector<int> free_seats_;      // likewise
  std::unordered_map<uint64_t, Holding> sequences_;
};

}  // namespace h2o
