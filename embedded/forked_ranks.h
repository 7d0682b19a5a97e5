// Processes forked from this one, one for each rank of a group, which find each
// other over a mesh and talk with this one over a pair of sockets
// (step_pipe.h).
//
// A process that has initialised CUDA cannot fork ranks that use it, so this
// one must not have (CheckGpu asks in a child); and it must have no threads
// that matter to the ranks, since a child has only the one that forked.
//
// A rank ends with the thread that forked it, which must therefore live as long
// as the ranks.
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
  // A rank's whole life; `fd` leads to the parent, which hears a failure as the
  // rank's last word.
  using Life = absl::FunctionRef<absl::Status(int fd, MeshListener listener,
                                              const MeshOptions& mesh)>;

  ForkedRanks() = default;
  ForkedRanks(const ForkedRanks&) = delete;
  // Kills the ranks and waits until they are gone.
  ~ForkedRanks();

  // Errors: RESOURCE_EXHAUSTED if the system grants no processes or sockets.
  absl::Status Fork(int size, Life life);
  void Kill() const;

  // By rank.  A process is waited for at the very end only, so its id is the
  // rank's as long as there is one.
  const std::vector<pid_t>& pids() const { return pids_; }
  const std::vector<UniqueFd>& sockets() const { return sockets_; }

 private:
  std::vector<pid_t> pids_;
  std::vector<UniqueFd> sockets_;  // our ends
};

}  // namespace h2o
