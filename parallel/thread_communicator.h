// Communicators whose ranks are threads of one process.
//
// Small messages are copied to an inbox from which all ranks read: one meeting
// at the barrier.  Large ones stay where they are: each rank sums its chunk of
// all ranks' data and writes it back to all of them, between two meetings.
#pragma once

#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace h2o {

// One communicator per rank, each to be used by one thread.  Abort of one
// fails all.  `timeout_seconds` limits the wait for a rank within an operation.
// REQUIRES: 1 <= size <= kMaxRanks (barrier.h).
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(
    int size, double timeout_seconds);

}  // namespace h2o
