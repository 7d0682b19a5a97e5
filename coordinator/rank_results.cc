// Collects and merges the results of a group's ranks.
#include "coordinator/rank_results.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace h2o {

bool RankResults::Complete() const {
  return std::none_of(of_ranks_.begin(), of_ranks_.end(),
                      [](const auto& results) { return results.empty(); });
}

absl::StatusOr<GroupResult> RankResults::Take() {
  std::vector<StepResult> oldest;
  for (std::deque<StepResult>& results : of_ranks_) {
    oldest.push_back(std::move(results.front()));
    results.pop_front();
  }
  diverged_ = FindDiverged(oldest);
  return MergeResults(std::move(oldest));
}

void RankResults::Clear() {
  for (std::deque<StepResult>& results : of_ranks_) results.clear();
}

int FindDiverged(absl::Span<const StepResult> of_ranks) {
  const auto same = [&](size_t a, size_t b) {
    return of_ranks[a].step == of_ranks[b].step &&
           of_ranks[a].checksum == of_ranks[b].checksum;
  };
  const auto like = [&](size_t rank) {
    size_t count = 0;
    for (size_t r = 0; r < of_ranks.size(); ++r) count += same(rank, r);
    return count;
  };
  size_t right = 0;
  for (size_t r = 0; r < of_ranks.size(); ++r) {
    if (2 * like(r) > of_ranks.size()) right = r;
  }
  for (size_t r = 0; r < of_ranks.size(); ++r) {
    if (!same(r, right)) return static_cast<int>(r);
  }
  return -1;
}

absl::StatusOr<GroupResult> MergeResults(std::vector<StepResult> of_ranks) {
  H2O_CHECK(!of_ranks.empty());
  if (const int rank = FindDiverged(of_ranks); rank >= 0) {
    const StepResult& wrong = of_ranks[rank];
    const int other = rank == 0 ? 1 : 0;
    const StepResult& right = of_ranks[other];
    return absl::InternalError(absl::StrCat(
        "rank ", rank, " is at step ", wrong.step, " with state ",
        absl::Hex(wrong.checksum), ", rank ", other, " at step ", right.step,
        " with ", absl::Hex(right.checksum), "; ranks must not diverge"));
  }
  GroupResult all;
  for (const StepResult& result : of_ranks) {
    all.ranks.push_back({result.prefill_seconds + result.decode_seconds,
                         result.sum_wait_seconds});
  }
  StepResult& merged = all.step;
  merged = std::move(of_ranks[0]);
  for (size_t rank = 1; rank < of_ranks.size(); ++rank) {
    StepResult& other = of_ranks[rank];
    std::move(other.trace.begin(), other.trace.end(),
              std::back_inserter(merged.trace));
    std::move(other.scores.begin(), other.scores.end(),
              std::back_inserter(merged.scores));
    merged.prefill_seconds =
        std::max(merged.prefill_seconds, other.prefill_seconds);
    merged.decode_seconds =
        std::max(merged.decode_seconds, other.decode_seconds);
    merged.slowest_layer_seconds =
        std::max(merged.slowest_layer_seconds, other.slowest_layer_seconds);
    merged.idle_seconds = std::max(merged.idle_seconds, other.idle_seconds);
    merged.sum_wait_seconds =
        std::max(merged.sum_wait_seconds, other.sum_wait_seconds);
  }
  return all;
}

}  // namespace h2o
