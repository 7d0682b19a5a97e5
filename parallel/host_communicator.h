// Communicators whose ranks are processes, on one host or on several.
//
// Ranks of one host use shared memory, others the TCP mesh.  All ranks agree on
// one of the two: if a rank cannot map the segment, or has another host id, all
// use TCP.
//
// A peer that died is noticed within milliseconds, because its connections
// close. A silent peer (stopped, cut off) is noticed at
// operation_timeout_seconds.  Both end the operation with UNAVAILABLE naming
// the rank.  Waiting for a slow peer sleeps.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace h2o {

// Connects this rank to all others; returns when all are connected.
// Errors: INVALID_ARGUMENT if `options` contradict themselves; UNAVAILABLE
// naming the ranks that did not connect in time.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectMesh(
    MeshListener listener, const MeshOptions& options);

// Equal for processes that run under one kernel and see the same /dev/shm
// (containers of one host may not).
std::string ThisHostId();

}  // namespace h2o
