// The results of a group's plans, by rank.  Ranks answer plans in order, each
// in its own time; a plan is done when all ranks have answered it.
//
// Threads  not thread-safe: its owner guards it.
#pragma once

#include <deque>
#include <vector>

#include "absl/status/statusor.h"
#include "model/step.h"

namespace h2o {

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
  absl::StatusOr<StepResult> Take();

  void Clear();

 private:
  std::vector<std::deque<StepResult>> of_ranks_;
};

// One result from those of all ranks, in rank order: rank 0's tokens, all
// traces, the longest times.  Errors: INTERNAL naming the first rank whose step
// or checksum differs from rank 0's.
absl::StatusOr<StepResult> MergeResults(std::vector<StepResult> of_ranks);

}  // namespace h2o
