// The ways in which the ranks of a group sum a matrix of which each has an
// addend.  All ways give all ranks the same bits.
#pragma once

#include <cstdint>

namespace h2o {

enum class SumWay : uint8_t {
  // Each rank writes its addend into its peers' inboxes.  One trip over the
  // link, but twice the bytes.  At most PeerSums::kPushRows rows.
  kPush,
  // Each rank reads the addends of all others in place.
  kPull,
  // Each rank reads and sums its share of the columns, and writes the sum over
  // the others' addends (a two-shot all-reduce).  2 (ranks - 1) / ranks times
  // the bytes of an addend, but two trips.  The sum is rounded like an addend.
  kShare,
  // The communicator sums before AddNorm, which reads the result.
  kAllReduce,
};
inline constexpr int kSumWays = 4;

}  // namespace h2o
