// A ShardRunner is one rank at work: it runs step plans over its slice of the
// weights, its heads' KV cache and the group's communicator, and reports
// tokens.  It knows nothing of clients.
//
// Threads  one owner, the step thread; Abort alone may be called by any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "model/step.h"
#include "parallel/communicator.h"
#include "worker/plan_runner.h"
#include "worker/shard_options.h"

namespace h2o {

struct ShardParts;

class ShardRunner : public PlanRunner {
 public:
  // Makes the rank; arguments and errors are those of MakeShardParts.
  static absl::StatusOr<std::unique_ptr<ShardRunner>> Create(
      const ShardOptions& options, std::unique_ptr<Communicator> communicator,
      const Clock* clock, std::function<void(double fraction)> progress);
  // Runs plans over a rank that is made (shard_setup.h).
  static std::unique_ptr<ShardRunner> Over(std::unique_ptr<ShardParts> parts);

  // A prefill may pause between two plans; one at a time.
  // Errors: INTERNAL for a plan that does not follow from the ones before it
  // (a gap in the step numbers, an unknown sequence, too few pages), or the
  // communicator's.  After an error the runner is unusable.
  absl::Status Launch(const StepPlan& plan) override = 0;

  // Launch and Collect.
  absl::StatusOr<StepResult> Run(const StepPlan& plan);

  virtual int64_t free_slabs() const = 0;
  // Ends the group's operations: running ones and later ones fail with
  // `reason`. Any thread.
  virtual void Abort(absl::Status reason) = 0;
};

}  // namespace h2o
