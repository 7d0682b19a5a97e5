// The results of a group's plans, by rank.  Ranks answer plans in order, each
// in its own time; a plan is done when all ranks have answered it.
//
// Threads  not thread-safe: its owner guards it.
#pragma once

#include <deque>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/step.h"

namespace h2o {

// How long a rank took for a plan.
struct RankSeconds {
  // Of its device, waits for other ranks included.
  double step_seconds = 0;
  // Of these, in sums and gathers (StepResult::sum_wait_seconds); 0 on GPUs.
  double sum_wait_seconds = 0;
};

// What a group answers to a plan.
struct GroupResult {
  StepResult step;               // of all ranks, see MergeResults
  std::vector<RankSeconds> ranks;  // in their order
};

class RankResults {
 public:
  explicit RankResults(int ranks) : of_ranks_(ranks) {}

  void Push(int rank, StepResult result) {
    of_ranks_[rank].push_back(std::move(result));
  }
  // Results of `rank` that were not taken.
  int waiting(int rank) const {
    return static_cast<int>(of_ranks_[rank].size());
  }
  // Whether `rank` has not answered the oldest plan.
  bool Owes(int rank) const { return of_ranks_[rank].empty(); }
  // Whether all ranks have answered the oldest plan.
  bool Complete() const;

  // Takes the oldest plan's results, as MergeResults.  REQUIRES: Complete().
  absl::StatusOr<GroupResult> Take();
  // The rank that made Take fail, -1: none yet.
  int diverged() const { return diverged_; }

  void Clear();

 private:
  std::vector<std::deque<StepResult>> of_ranks_;
  int diverged_ = -1;
};

// The first rank whose step or checksum differs from what most ranks have, or,
// if there is no majority, from rank 0's; -1: all are equal.
int FindDiverged(absl::Span<const StepResult> of_ranks);

// One result from those of all ranks, in rank order: rank 0's tokens, all
// traces, the longest times.  Errors: INTERNAL naming the rank of FindDiverged.
absl::StatusOr<GroupResult> MergeResults(std::vector<StepResult> of_ranks);

}  // namespace h2o
