// One copy of the model: `tp` ranks in lockstep.  Remote processes in
// production, threads of this process when embedded, a fake in tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kv/kv_geometry.h"
#include "model/model_config.h"
#include "model/step.h"

namespace h2o {

struct GroupInfo {
  ModelConfig config;
  KvGeometry geometry;
  std::vector<int64_t> num_pages;  // the pool of each rank
  // Tokens of several prompts that one prefill may hold; 0: one prompt each.
  int64_t packed_tokens = 0;
  int tp() const { return static_cast<int>(num_pages.size()); }
  int64_t kv_pool_bytes() const;  // over all ranks
};

// Threads  Submit and Next are called by one thread, the others by any.
class WorkerGroup {
 public:
  // Plans that may be unanswered: the running one and the one ahead.
  static constexpr int kMaxPlansInFlight = 2;

  virtual ~WorkerGroup() = default;
  virtual const GroupInfo& info() const = 0;

  // OK, or why the group is over.  Known without a plan: a rank may be lost
  // while nothing runs.
  virtual absl::Status status() const = 0;

  // Sends `plan` to every rank.  REQUIRES: fewer than kMaxPlansInFlight are
  // unanswered.  Errors: UNAVAILABLE naming the rank.
  virtual absl::Status Submit(const StepPlan& plan) = 0;

  // Waits for the oldest unanswered plan to be done on every rank.
  // REQUIRES: there is one.  Errors: UNAVAILABLE naming a rank that died or is
  // past the step deadline, INTERNAL when ranks disagree.
  virtual absl::StatusOr<StepResult> Next() = 0;

  // Ends the group; Submit and Next fail with `reason` from now on.
  virtual void Abort(absl::Status reason) = 0;
};

// One result from those of all ranks, in rank order: rank 0's tokens, all
// traces, the longest times.  Errors: INTERNAL naming the first rank whose step
// or checksum differs from rank 0's.
absl::StatusOr<StepResult> MergeResults(std::vector<StepResult> of_ranks);

}  // namespace h2o
