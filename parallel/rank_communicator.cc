// Connects a rank over the mesh, and GPUs over NCCL by way of it.
#include "parallel/rank_communicator.h"

#include <utility>

#include "base/status_macros.h"
#include "parallel/host_communicator.h"
#include "parallel/nccl_communicator.h"

namespace h2o {

absl::StatusOr<std::unique_ptr<Communicator>> ConnectRank(
    MeshListener listener, const MeshOptions& mesh, const DeviceName& device) {
  H2O_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator,
                       ConnectMesh(std::move(listener), mesh));
  if (!device.cuda || mesh.size == 1) return communicator;
  return ConnectNccl(std::move(communicator), device.ordinal);
}

}  // namespace h2o
