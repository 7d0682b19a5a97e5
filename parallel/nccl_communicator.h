// The Communicator of ranks that have a GPU each.  NCCL moves numbers between
// device memories, in the order of the stream given to UseStream: a call
// returns when its work is enqueued, and may be captured in a CUDA graph, on
// every rank alike.
//
// Sums are taken in NCCL's order: a ring or a tree adds up an element once and
// hands it on, so every rank has the same bits.  With more than two ranks they
// depend on the size of the whole.  NCCL's own sums do without symmetric
// windows: those that would gain are taken by kernels over MapPeers, which is
// such a window (kernels/cuda/add_norm.cu).
//
// Threads  as every Communicator.
// Errors   what cannot be enqueued: UNAVAILABLE if NCCL blames a peer or the
//          system, else INTERNAL.  Nobody finds out here that a peer has died:
//          what was enqueued then never ends, and who watches the processes
//          must know (WorkerGroup).
// Abort    also makes NCCL give up what is running, without waiting for it,
//          and sets the word that kernels over MapPeers glance at; what they
//          map may be gone before they see it, and the device then fails.
//          What the device computed since is worthless, and graphs keep NCCL
//          alive until they are destroyed: a process that must go ends by
//          _exit.
// End      with the stream done and its graphs destroyed.  Destruction waits
//          for the other ranks of this host to do the same, but two seconds at
//          most.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace h2o {

// Connects the ranks of `mesh`, GPU `ordinal` of this machine being this
// rank's, and makes that GPU the calling thread's.  `mesh` spreads the word and
// is kept: as long as its connections stand, so does the rank.
// NCCL_NVLS_ENABLE=0 is set unless the environment says otherwise.
// Errors: FAILED_PRECONDITION if this build has no CUDA or the machine no such
// GPU; those of `mesh`; UNAVAILABLE or INTERNAL with NCCL's reason.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(
    std::unique_ptr<Communicator> mesh, int ordinal);

}  // namespace h2o
