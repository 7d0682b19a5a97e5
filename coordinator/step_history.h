// The last steps of a group: what each rank took for them, for metrics and
// status, and what was under way, for the file that a fault leaves behind.
//
// All memory is taken when the history is made, about 200 kB.
//
// Units    seconds; points in time are those of the coordinator's clock.
// Threads  not thread-safe; the Engine's lock.  Only the group's loop thread
//          changes it, so that thread may read it without the lock.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/histogram.h"
#include "coordinator/rank_results.h"
#include "model/step.h"

namespace h2o {

// Some ids of a longer list.
struct FirstIds {
  static constexpr int kMost = 16;

  int64_t count = 0;  // of the whole list
  std::array<uint64_t, kMost> first = {};

  void Set(absl::Span<const uint64_t> ids);
  absl::Span<const uint64_t> known() const;
};

struct StepRecord {
  // Of the plan.
  uint64_t step = 0;  // 0: none
  double sent = 0;
  FirstIds retired, admitted, prefilled, decoded;
  int32_t layer_begin = 0, layer_end = 0;  // of the first prefill
  int64_t pages_held = 0;                  // over all ranks

  // Of the result.
  double done = 0;  // 0: not answered
  uint64_t checksum = 0;
  int64_t tokens = 0;
  std::vector<RankSeconds> ranks;
};

// What a rank did over its whole life and lately.
struct RankSteps {
  Histogram step_seconds = Histogram(StepBuckets());
  // Averages that forget: the last 32 steps or so count.
  double sum_wait_seconds = 0;  // RankSeconds::sum_wait_seconds
  // Its own work (a step less its waits), less that of its fastest neighbour.
  double skew_seconds = 0;

  static std::vector<double> StepBuckets();
};

class StepHistory {
 public:
  static constexpr int kSteps = 256;

  explicit StepHistory(int ranks);

  // A plan goes out at `now`.
  void Sent(const StepPlan& plan, int64_t pages_held, double now);
  // Its result came.  Results come in the order of plans.
  void Done(const GroupResult& result, double now);

  const RankSteps& rank(int r) const { return ranks_[r]; }
  // Step times of a rank, in seconds, of the last steps, in no order.
  std::vector<float> RecentSeconds(int rank) const;
  // Known steps, the oldest first.
  std::vector<const StepRecord*> Records() const;

 private:
  StepRecord& Of(uint64_t step) { return records_[step % kSteps]; }

  std::vector<StepRecord> records_;
  std::vector<RankSteps> ranks_;
};

}  // namespace h2o
