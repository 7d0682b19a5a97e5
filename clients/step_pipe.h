// What forked ranks and who forked them say to each other, over a pair of
// sockets: step plans go down; readiness, results, what was measured, and
// failures come up.
//
// A frame is its length, its kind and then the fields as they lie in memory:
// both ends are the same program on the same machine.
//
// Threads  of each end one that writes and one that reads.
// Errors   UNAVAILABLE when the other end is closed, also in the midst of a
//          frame; DATA_LOSS for a frame that is none of these;
//          RESOURCE_EXHAUSTED for one of more than kMaxFrameBytes.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clients/all_reduce_times.h"
#include "kv/kv_geometry.h"
#include "model/step.h"
#include "worker/shard_runner.h"

namespace h2o {

// The logits of 16 prompts of the longest context are a third of it.
inline constexpr int64_t kMaxFrameBytes = int64_t{16} << 30;

absl::Status WritePlan(int fd, const StepPlan& plan);
absl::StatusOr<StepPlan> ReadPlan(int fd);

struct RankProgress {
  double fraction = 0;  // of the weights, loaded
};
struct RankReady {
  int64_t num_pages = 0;
  int64_t packed_tokens = 0;
  MemoryPlan memory;
  KvGeometry geometry;
  std::vector<SumTimes> sums;
};
struct RankFailure {
  absl::Status status;  // the rank's last word
};
struct RankTimes {
  std::vector<AllReduceTime> times;  // all that a rank that measures says
};
using RankNews =
    std::variant<RankProgress, RankReady, StepResult, RankFailure, RankTimes>;

absl::Status WriteNews(int fd, const RankNews& news);
absl::StatusOr<RankNews> ReadNews(int fd);

}  // namespace h2o
