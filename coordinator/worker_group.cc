#include "coordinator/worker_group.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace h2o {

int64_t GroupInfo::kv_pool_bytes() const {
  int64_t pages = 0;
  for (int64_t n : num_pages) pages += n;
  return pages * geometry.PageBytes();
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
