// Communicators whose ranks are processes, on one host or on several.
//
// Ranks of one host share memory; otherwise numbers go over the TCP mesh.
// Which of the two is agreed by all: if one rank cannot map the segment, or
// believes that a rank is elsewhere, all use TCP.
//
// A dead peer is noticed within milliseconds by its closed connection, a
// silent one (stopped, cut off) at operation_timeout_seconds; both end the
// operation with UNAVAILABLE naming the rank.  Waiting for a slow one sleeps.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace h2o {

// Connects this rank with all others; returns when all are connected.
// Errors: INVALID_ARGUMENT if `options` contradict themselves; UNAVAILABLE
// naming the ranks that were not there in time.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectMesh(
    MeshListener listener, const MeshOptions& options);

// Equal for processes that run under one kernel and see the same /dev/shm
// (containers of one host may not).
std::string ThisHostId();

}  // namespace h2o
