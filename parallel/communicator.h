// A Communicator moves numbers between the ranks of one group: between host
// memories when the call returns, or, over NCCL, between device memories in the
// order of the rank's stream.
//
// All ranks call the same operations in the same order with the same sizes.
// An element is summed once, in rank order between host memories and in NCCL's
// order between devices, so every rank receives the same bits: sampling and
// eviction run in lockstep on them.
//
// Threads  one owner, the step thread of the rank; Abort alone may be called
//          from any thread.
// Errors   UNAVAILABLE naming the peer when it is gone or silent past the
//          deadline, or the reason given to Abort.  After an error the
//          communicator is unusable: peers may be at different operations.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/dtype.h"
#include "kernels/device.h"
#include "kernels/peer_sums.h"

namespace h2o {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Later operations are enqueued on `stream`.  Ignored for host memory.
  virtual void UseStream(Stream stream) { static_cast<void>(stream); }

  // data[count] becomes the sum over ranks.  Host memory: float32 only.
  // Bytes on the wire a rank: about 2 * count * width * (size - 1) / size.
  virtual absl::Status AllReduceSum(void* data, int64_t count,
                                    DType dtype = DType::kFloat32) = 0;

  // Concatenates in rank order.  Rank r contributes bytes[r] bytes; `bytes` is
  // the same on every rank.  `mine` has bytes[rank()] bytes, `all` their sum.
  // `mine` may lie at its place within `all`.
  virtual absl::Status AllGather(const void* mine,
                                 absl::Span<const int64_t> bytes,
                                 void* all) = 0;

  // Allocates `bytes` of device memory on every rank, zeroed, and maps it into
  // all ranks until the communicator ends.  Size 0: the devices cannot reach
  // each other's memory.  All ranks must call it.  It has no timeout: it blocks
  // until every rank arrives. Errors: the system's, mostly RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<PeerMemory> MapPeers(int64_t bytes) {
    static_cast<void>(bytes);
    return PeerMemory();
  }

  // Makes a running operation and every later one fail with `reason`.
  virtual void Abort(absl::Status reason) = 0;
};

}  // namespace h2o
