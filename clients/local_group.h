// A WorkerGroup whose ranks are threads of this process: the embedded mode.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "coordinator/worker_group.h"
#include "worker/shard_runner.h"

namespace h2o {

struct LocalGroupOptions {
  ModelConfig config;
  ModelSpec model;
  DeviceName device;
  int tp = 1;
  int num_threads = 0;        // over all ranks; 0: one a core
  int64_t kv_pool_bytes = 0;  // of each rank; 0: from memory_share
  double memory_share = 0;    // 0: the device's default
  int max_sequences = 256;
  std::string cache_directory;  // see ShardOptions
};

// What rank `rank` of the group is to be: ranks on CPUs share the cores and the
// memory of the machine, rank r on GPUs has device.ordinal + r to itself.
ShardOptions ShardOfRank(const LocalGroupOptions& options, int rank);

class LocalGroup final : public WorkerGroup {
 public:
  // Loads every rank.  `progress` (may be empty) hears the fraction loaded.
  // Errors: as ShardRunner::Create.
  static absl::StatusOr<std::unique_ptr<LocalGroup>> Create(
      const LocalGroupOptions& options,
      std::function<void(double fraction)> progress);
  ~LocalGroup() override;

  const GroupInfo& info() const override;
  absl::Status status() const override;
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Next() override;
  void Abort(absl::Status reason) override;

  MemoryPlan memory_plan() const;  // over all ranks

 private:
  struct Impl;
  explicit LocalGroup(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace h2o
