// Frames between forked ranks and the process that forked them, over a pair of
// sockets.  Step plans go down; readiness, results, measurements and failures
// come up.
//
// A frame is its length, its kind and its body: mostly a struct as step_codec.h
// encodes it.
//
// Threads  at each end, one that writes and one that reads.
// Errors   UNAVAILABLE when the other end is closed, also in the midst of a
//          frame; RESOURCE_EXHAUSTED for a frame of more than kMaxFrameBytes to
//          be written; DATA_LOSS for one that cannot be read, and those of
//          step_codec.h.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "embedded/all_reduce_times.h"
#include "model/rank_info.h"
#include "model/step.h"

namespace h2o {

// More than twice the logits of 16 of OPT's longest prompts (6.6 GB).
inline constexpr int64_t kMaxFrameBytes = int64_t{16} << 30;

// `plan`: encoded, once for all ranks.
absl::Status WritePlan(int fd, std::string_view plan);
// `config`: of the model that the ranks run.
absl::StatusOr<StepPlan> ReadPlan(int fd, const ModelConfig& config);

struct RankProgress {
  double fraction = 0;  // of the weights, loaded
};
struct RankFailure {
  absl::Status status;  // the rank's last word
};
struct RankTimes {
  std::vector<AllReduceTime> times;  // all that a rank that measures says
};
using RankNews =
    std::variant<RankProgress, RankInfo, StepResult, RankFailure, RankTimes>;

absl::Status WriteNews(int fd, const RankNews& news);
// `config`: of the model that the ranks run; of no matter to RankTimes.
absl::StatusOr<RankNews> ReadNews(int fd, const ModelConfig& config);

}  // namespace h2o
