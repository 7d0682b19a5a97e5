// One copy of the model: `tp` ranks in lockstep.  Remote processes in
// production, threads of this process when embedded, a fake in tests.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/fault.h"
#include "coordinator/rank_place.h"
#include "coordinator/rank_results.h"
#include "kv/kv_geometry.h"
#include "model/model_config.h"
#include "model/rank_info.h"
#include "model/step.h"

namespace h2o {

// The ranks of a group, in their order; at least one.  They are alike (see
// CheckAlike), so rank 0 speaks for the group.
struct GroupInfo {
  std::vector<RankInfo> ranks;
  int number = 0;                 // that people know the group by
  std::vector<RankPlace> places;  // of the ranks; empty: in this process

  int tp() const { return static_cast<int>(ranks.size()); }
  const ModelConfig& config() const { return ranks[0].config; }
  const KvGeometry& geometry() const { return ranks[0].geometry; }
  int64_t packed_tokens() const { return ranks[0].packed_tokens; }
  const std::vector<SumTimes>& sums() const { return ranks[0].sums; }
  MemoryPlan memory() const;  // over all ranks
};

// Whether `other` may be a rank of the group of `rank0`.  Errors:
// FAILED_PRECONDITION naming what differs, and both values.
absl::Status CheckAlike(const RankInfo& rank0, const RankInfo& other);

// Threads  Submit and Next are called by one thread, the others by any.
class WorkerGroup {
 public:
  // Plans that may be unanswered: the running one and the one ahead.
  static constexpr int kMaxPlansInFlight = 2;
  // A group that should leave stays this long, even if it runs nothing.  When a
  // whole job is told to stop at once, the coordinator drains within that time,
  // and needs its groups for the requests that wait.
  static constexpr double kLeavingSeconds = 1;

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
  virtual absl::StatusOr<GroupResult> Next() = 0;

  // When each rank last answered a plan, or was ready, by the coordinator's
  // clock; empty: not known.
  virtual std::vector<double> last_answers() const { return {}; }

  // Who ended the group; none: nobody, or it is not over.
  virtual std::optional<Fault> fault() const { return std::nullopt; }

  // Why the group should end once its work is done or moved away; OK: it stays.
  virtual absl::Status leaving() const { return absl::OkStatus(); }
  // Lets the ranks of such a group go.  REQUIRES: no plan is unanswered.
  virtual void Release() {}

  // Ends the group; Submit and Next fail with `reason` from now on.
  virtual void Abort(absl::Status reason) = 0;
};

}  // namespace h2o
