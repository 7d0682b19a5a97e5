// A WorkerGroup whose ranks are threads of this process: the embedded mode.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "coordinator/worker_group.h"
#include "worker/shard_runner.h"

namespace h2o {

class LocalGroup final : public WorkerGroup {
 public:
  // Loads every rank with its OptionsOfRank.  `progress` (may be empty) is
  // called with the fraction loaded.  Errors: as ShardRunner::Create.
  static absl::StatusOr<std::unique_ptr<LocalGroup>> Create(
      const ShardOptions& options,
      std::function<void(double fraction)> progress);
  ~LocalGroup() override;

  const GroupInfo& info() const override;
  absl::Status status() const override;
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<GroupResult> Next() override;
  void Abort(absl::Status reason) override;

 private:
  struct Impl;
  explicit LocalGroup(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace h2o
