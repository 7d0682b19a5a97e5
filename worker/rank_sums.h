// The all-reduces of a tensor-parallel layer.  Attention and MLP each add to
// the residual a sum over ranks.  A RankSums says where a rank writes its part
// of the sum, and who adds the parts up: AddNorm itself, where ranks map each
// other's memory, or the communicator before it.
//
// Which way is the fastest depends on the number of ranks, on the number of
// rows and on the links between the ranks.  Create measures it, on all ranks
// together, in a fraction of a second.
//
// Threads  one owner, the step thread.
// Errors   the communicator's; of Create also the device's, RESOURCE_EXHAUSTED
//          if memory is short.
// Waiting  Create has no timeout: its kernels wait until every rank arrives.
//          The supervisor of the processes must kill a rank that hangs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/peer_sums.h"
#include "model/rank_info.h"
#include "parallel/communicator.h"

namespace h2o {

const char* Name(SumWay way);

// The way of sums of up to `rows` rows, and of more rows than the choice before
// it covers.
struct SumChoice {
  int64_t rows = 0;
  SumWay way = SumWay::kAllReduce;

  friend bool operator==(const SumChoice&, const SumChoice&) = default;
};

// The fastest way for each number of rows.  Of ways whose difference may be
// noise, the first in the order of SumWay.  `times`: by ascending rows.
std::vector<SumChoice> ChooseSums(absl::Span<const SumTimes> times);

class RankSums {
 public:
  // `whole` [most rows, columns]: the parts that the communicator sums in
  // place. `scratch`: of the same size; its contents are lost.  Both, the
  // backend and the communicator must outlive the RankSums.  All ranks call
  // alike.
  static absl::StatusOr<RankSums> Create(Backend* backend,
                                         Communicator* communicator,
                                         Matrix whole, Matrix scratch);

  int64_t bytes() const { return peers_.bytes; }
  // Empty where there is only one way.
  const std::vector<SumTimes>& times() const { return times_; }
  // "push up to 32 rows, pull up to 2048 rows"
  std::string ToString() const;

  // Where this rank writes its part of `rows` rows.  `turn` alternates between
  // 0 and 1.  A part may be written from when the sum of the other turn is
  // enqueued until its own sum is enqueued.
  Delta PartOf(int64_t rows, int turn) const;

  // The communicator's all-reduce of m, in place.
  absl::Status AllReduce(Matrix m) const {
    return communicator_->AllReduceSum(m.data, m.rows * m.stride, m.dtype);
  }
  // Sums `part` over ranks and runs Backend::AddNorm with the sum.
  absl::Status AddNorm(Matrix x, const Delta& part, const void* bias,
                       NormPlace place, const LayerNormWeights& weights,
                       Matrix out) const;

 private:
  RankSums(Backend* backend, Communicator* communicator, Matrix whole)
      : backend_(backend), communicator_(communicator), whole_(whole) {}

  absl::Status MapPeers();
  Delta PartOf(int64_t rows, int turn, SumWay way) const;
  SumWay WayOf(int64_t rows) const;

  absl::StatusOr<std::vector<SumTimes>> Measure(Matrix x, Matrix out) const;
  absl::StatusOr<double> Time(SumWay way, Matrix x, Matrix out) const;
  absl::Status AddUp(absl::Span<SumTimes> times) const;

  Backend* backend_;
  Communicator* communicator_;
  Matrix whole_;
  PeerSums peers_;  // false where ranks do not map each other's memory
  std::vector<SumTimes> times_;
  std::vector<SumChoice> choices_;
};

}  // namespace h2o
