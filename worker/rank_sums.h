// What a half of a layer adds to the residual is a sum over ranks.  A RankSums
// knows where a rank writes its part of it, and how the parts are best added
// up: by AddNorm itself, where ranks map each other's memory, or by the
// communicator before it.
//
// Which way is quickest depends on the number of ranks and rows and on what
// lies between the ranks, so it is measured, once and by all ranks together,
// when the RankSums is made: a fraction of a second.
//
// Threads  one owner, the step thread.
// Errors   the communicator's; of Create also the device's, RESOURCE_EXHAUSTED
//          if memory is short.
// Waiting  Create waits for all ranks in kernels and without a deadline: who
//          watches the processes ends it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/peer_sums.h"
#include "parallel/communicator.h"

namespace h2o {

const char* Name(SumWay way);

// Seconds of one sum of `rows` rows and the AddNorm of it, by SumWay; infinite
// for ways that do not have so many rows.
struct SumTimes {
  int64_t rows = 0;
  std::array<float, kSumWays> seconds;
};

// Sums of more rows than of the choice before, and up to `rows`, go this way.
struct SumChoice {
  int64_t rows = 0;
  SumWay way = SumWay::kAllReduce;

  friend bool operator==(const SumChoice&, const SumChoice&) = default;
};

// The quickest way of each number of rows; the first of those that are as
// quick, but for what may be chance.  `times`: in the order of rows.
std::vector<SumChoice> ChooseSums(absl::Span<const SumTimes> times);

class RankSums {
 public:
  // `whole` [most rows, columns]: where the parts lie that the communicator
  // sums.  `scratch`: as large, and written over.  Both, the backend and the
  // communicator outlive the RankSums, which all ranks make alike.
  static absl::StatusOr<RankSums> Create(Backend* backend,
                                         Communicator* communicator,
                                         Matrix whole, Matrix scratch);

  int64_t bytes() const { return peers_.bytes; }
  // None, where there is one way only.
  const std::vector<SumTimes>& times() const { return times_; }
  // "push up to 32 rows, pull up to 2048 rows"
  std::string ToString() const;

  // Where a part of `rows` rows goes; `turn` is 0 and 1 in turn.  It may be
  // written once the sum of the other turn is enqueued, and until its own is.
  Delta PartOf(int64_t rows, int turn) const;

  // m becomes the sum over ranks, by the communicator.
  absl::Status AllReduce(Matrix m) const {
    return communicator_->AllReduceSum(m.data, m.rows * m.stride, m.dtype);
  }
  // Backend::AddNorm of the sum over ranks.
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
  PeerSums peers_;  // where ranks map each other's memory
  std::vector<SumTimes> times_;
  std::vector<SumChoice> choices_;
};

}  // namespace h2o
