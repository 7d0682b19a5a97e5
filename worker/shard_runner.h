// A ShardRunner is one shard at work: it runs step plans over its slice of the
// weights, its heads' KV cache and the group's communicator, and reports
// tokens. It knows nothing of clients.
//
// What a launch enqueues depends on plans alone, never on results, or ranks
// would part ways.
//
// Threads  one owner, the step thread; Abort alone may be called by any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/device.h"
#include "kv/kv_geometry.h"
#include "model/model_config.h"
#include "model/model_spec.h"
#include "model/step.h"
#include "parallel/communicator.h"
#include "worker/plan_runner.h"
#include "worker/rank_sums.h"

namespace h2o {

struct ShardOptions {
  ModelConfig config;
  ModelSpec model;
  DeviceName device;
  int rank = 0;
  int size = 1;
  int num_threads = 1;

  // The KV pool: this many bytes, or if 0 `memory_share` of what the device
  // has left once weights and workspace are taken (shared by `local_ranks`
  // ranks of this device), and never more than max_sequences of full length.
  int64_t kv_pool_bytes = 0;
  double memory_share = 0;  // 0: 0.5 of a CPU's, 0.95 of a GPU's
  int local_ranks = 1;

  int max_sequences = 256;  // open at once

  // Where a GPU's choices are kept between runs; empty: nowhere.
  std::string cache_directory;
};

// Where the memory of a rank goes, in bytes.
struct MemoryPlan {
  int64_t weights = 0;
  int64_t workspace = 0;
  int64_t kv_pool = 0;
};

class ShardRunner : public PlanRunner {
 public:
  // Loads the weights and takes all memory.  `clock` must outlive the runner;
  // `progress` (may be empty) hears the fraction of the weights loaded.
  // Errors: those of LoadShardWeights and of reading the checkpoint,
  // INVALID_ARGUMENT for a device, dtype or size that cannot be,
  // FAILED_PRECONDITION for a device that is not there, RESOURCE_EXHAUSTED if
  // the memory is not there.
  static absl::StatusOr<std::unique_ptr<ShardRunner>> Create(
      const ShardOptions& options, std::unique_ptr<Communicator> communicator,
      const Clock* clock, std::function<void(double fraction)> progress);

  // The hidden states of one paused prefill are held between two plans.
  // Errors: INTERNAL for a plan that does not follow from the ones before it
  // (a gap in the step numbers, an unknown sequence, too few pages), or the
  // communicator's.  After an error the runner is of no use.
  absl::Status Launch(const StepPlan& plan) override = 0;

  // Launch and Collect.
  absl::StatusOr<StepResult> Run(const StepPlan& plan);

  virtual const KvGeometry& geometry() const = 0;
  virtual int64_t num_pages() const = 0;
  virtual int64_t free_pages() const = 0;
  // Tokens of several prompts that one prefill may hold; 0: one prompt each.
  virtual int64_t packed_tokens() const = 0;
  virtual MemoryPlan memory_plan() const = 0;
  // What the group's sums took when the runner was made; see RankSums::times.
  virtual std::vector<SumTimes> sum_times() const = 0;
  // Equal for all ranks that hold the same model in the same formats.
  virtual std::string fingerprint() const = 0;
  // The reason given by whoever found the group broken; any thread.
  virtual void Abort(absl::Status reason) = 0;
};

// Decode steps whose heads store no more slots than this are recorded as one,
// if their heads store up to `slots`: a power of two, but no more than the
// pages of the longest sequence have, for which backends are made.
int32_t DecodeSlotClass(int32_t slots, int64_t max_positions);

}  // namespace h2o
