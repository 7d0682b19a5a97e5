// The Communicator of ranks that have a GPU each.  NCCL moves numbers between
// device memories, in the order of the stream given to UseStream: a call
// returns when its work is enqueued, and may be captured in a CUDA graph, on
// every rank alike.
//
// NCCL sums in an order of its own: a ring or a tree adds up an element once
// and hands it on, so every rank has the same bits.  With more than two ranks
// the bits depend on the size of the message.  These sums do not use NCCL's
// symmetric windows.  Sums that would gain from them are done by our own
// kernels over MapPeers, which is such a window (kernels/cuda/add_norm.cu).
//
// Threads  as every Communicator.
// Errors   only of enqueueing: UNAVAILABLE if NCCL blames a peer or the system,
//          else INTERNAL.  A peer that died is not noticed here: work that was
//          enqueued then never ends.  The code that watches the processes must
//          notice (WorkerGroup).
// Abort    also makes NCCL give up running work, without waiting for it, and
//          sets the word that kernels over MapPeers check.  The memory they map
//          may be gone before they see it; the device then fails.  Results that
//          the device computed since are worthless.  CUDA graphs keep NCCL
//          alive until they are destroyed, so a process that must end calls
//          _exit.
// End      Destroy it when the stream is done and its graphs are destroyed.
//          Destruction waits for the other ranks of this host to do the same,
//          two seconds at most.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace h2o {

// Connects the ranks of `mesh`.  This rank has GPU `ordinal` of this machine,
// which becomes the calling thread's device.  NCCL's id is exchanged over
// `mesh`, which is then kept: as long as its connections stand, the rank is
// alive. Sets NCCL_NVLS_ENABLE=0 unless the environment sets it. Errors:
// FAILED_PRECONDITION if this build has no CUDA or the machine no such GPU;
// those of `mesh`; UNAVAILABLE or INTERNAL with NCCL's reason.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(
    std::unique_ptr<Communicator> mesh, int ordinal);

}  // namespace h2o
