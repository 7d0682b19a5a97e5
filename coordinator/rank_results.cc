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

absl::StatusOr<StepResult> RankResults::Take() {
  std::vector<StepResult> oldest;
  for (std::deque<StepResult>& results : of_ranks_) {
    oldest.push_back(std::move(results.front()));
    results.pop_front();
  }
  return MergeResults(std::move(oldest));
}

void RankResults::Clear() {
  for (std::deque<StepResult>& results : of_ranks_) results.clear();
}

absl::StatusOr<StepResult> MergeResults(std::vector<StepResult> of_ranks) {
  H2O_CHECK(!of_ranks.empty());
  StepResult merged = std::move(of_ranks[0]);
  for (size_t rank = 1; rank < of_ranks.size(); ++rank) {
    StepResult& other = of_ranks[rank];
    if (other.step != merged.step || other.checksum != merged.checksum) {
      return absl::InternalError(absl::StrCat(
          "rank ", rank, " is at step ", other.step, " with state ",
          absl::Hex(other.checksum), ", rank 0 at step ", merged.step, " with ",
          absl::Hex(merged.checksum), "; ranks must not diverge"));
    }
    std::move(other.trace.begin(), other.trace.end(),
              std::back_inserter(merged.trace));
    merged.prefill_seconds =
        std::max(merged.prefill_seconds, other.prefill_seconds);
    merged.decode_seconds =
        std::max(merged.decode_seconds, other.decode_seconds);
    merged.slowest_layer_seconds =
        std::max(merged.slowest_layer_seconds, other.slowest_layer_seconds);
    merged.idle_seconds = std::max(merged.idle_seconds, other.idle_seconds);
  }
  return merged;
}

}  // namespace h2o
