// Admission: the ledger of KV pages promised on every rank of one group.
//
// A request is charged, before it runs, all the pages it can ever hold
// (kv_geometry.h), so an admitted request is never preempted and nothing runs
// out of memory.  No other code grants KV memory.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/worker_group.h"

namespace h2o {

// Slabs of one sequence on each rank; a slab is a page where all have one size.
using SlabCharge = std::vector<int64_t>;
int64_t SumOf(const SlabCharge& charge);  // over the ranks

class Admission {
 public:
  explicit Admission(const GroupInfo& info);

  SlabCharge ChargeOf(const KvPolicy& policy, int64_t max_stored_tokens) const;

  // Whether an empty group could hold it.  Errors: INVALID_ARGUMENT with the
  // arithmetic of the rank that could not.
  absl::Status CanEverFit(const SlabCharge& charge) const;

  // True if and only if every rank has the pages free now.
  bool Fits(const SlabCharge& charge) const;

  // REQUIRES: Fits(charge).
  void Charge(const SlabCharge& charge);
  void Release(const SlabCharge& charge);

  // Free pages of the tightest rank: what placement compares groups by.
  int64_t FreeSlabs() const;
  int64_t HeldSlabs() const;   // over all ranks
  int64_t TotalSlabs() const;  // likewise
  int64_t held(int rank) const { return held_[rank]; }
  int64_t total(int rank) const { return num_slabs_[rank]; }

 private:
  const KvGeometry geometry_;
  const ModelConfig config_;
  std::vector<int64_t> num_slabs_;
  std::vector<int64_t> held_;
};

}  // namespace h2o
