// A WorkerGroup whose ranks are processes forked from this one: the embedded
// mode on several GPUs, where each GPU needs a process of its own.
//
// ForkedRanks states what the forking process must observe.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/worker_group.h"
#include "worker/shard_options.h"

namespace h2o {

class ForkedGroup final : public WorkerGroup {
 public:
  // Forks and loads every rank; rank r has GPU `options.device.ordinal` + r.
  // `progress` (may be empty) is called with the fraction loaded, in this
  // thread.
  // Errors: as ShardRunner::Create; UNAVAILABLE naming a rank that died;
  // RESOURCE_EXHAUSTED if the system grants no processes or sockets.
  static absl::StatusOr<std::unique_ptr<ForkedGroup>> Create(
      const ShardOptions& options,
      std::function<void(double fraction)> progress);

  // Gives the ranks ten seconds to finish the plans that run, then kills those
  // that are left.  Waits until the processes have ended.
  ~ForkedGroup() override;

  const GroupInfo& info() const override;
  absl::Status status() const override;
  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<GroupResult> Next() override;
  void Abort(absl::Status reason) override;  // kills the ranks

  const std::vector<pid_t>& pids() const;  // by rank

 private:
  struct Impl;
  explicit ForkedGroup(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace h2o
