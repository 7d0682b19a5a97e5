// Connects a rank that is a process of its own to the others of its group.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "base/device_name.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace h2o {

// Sums go over memory of hosts, or over NCCL where ranks have a GPU each.  Call
// it before the rank loads: then a rank that fails to load is noticed by the
// others.  Errors: as ConnectMesh and ConnectNccl.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectRank(
    MeshListener listener, const MeshOptions& mesh, const DeviceName& device);

}  // namespace h2o
