// Processes forked from this one, one for each rank of a group, which find each
// other over a mesh and talk with this one over a pair of sockets
// (step_pipe.h).
//
// A process that has initialised CUDA cannot fork ranks that use it.  So this
// process must not initialise CUDA before it forks (CheckGpu asks in a child).
// A child has only the thread that forked it, so the ranks must not depend on
// other threads of this process.
//
// A rank is killed when the thread that forked it ends: that thread must live
// as long as the ranks.
#pragma once

#include <sys/types.h>

#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "parallel/mesh.h"
#include "parallel/unique_fd.h"

namespace h2o {

class ForkedRanks {
 public:
  // Runs a rank from start to end.  `fd` leads to the parent.  If it returns an
  // error, the parent receives it as RankFailure.
  using Life = absl::FunctionRef<absl::Status(int fd, MeshListener listener,
                                              const MeshOptions& mesh)>;

  ForkedRanks() = default;
  ForkedRanks(const ForkedRanks&) = delete;
  // Kills the ranks and waits until they are gone.
  ~ForkedRanks();

  // Errors: RESOURCE_EXHAUSTED if the system grants no processes or sockets.
  absl::Status Fork(int size, Life life);
  void Kill() const;

  // By rank.  Processes are reaped in the destructor only, so no id is reused
  // before.
  const std::vector<pid_t>& pids() const { return pids_; }
  const std::vector<UniqueFd>& sockets() const { return sockets_; }

 private:
  std::vector<pid_t> pids_;
  std::vector<UniqueFd> sockets_;  // our ends
};

}  // namespace h2o
