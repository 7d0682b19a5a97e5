// Keeps the last steps of a group in a ring.
#include "coordinator/step_history.h"

#include <algorithm>
#include <limits>

namespace h2o {
namespace {

// The weight of the newest step in an average.
constexpr double kNewest = 1.0 / 32;

void Follow(double value, bool first, double* average) {
  *average = first ? value : *average + kNewest * (value - *average);
}

double OwnSeconds(const RankSeconds& times) {
  return std::max(0.0, times.step_seconds - times.sum_wait_seconds);
}

}  // namespace

void FirstIds::Set(absl::Span<const uint64_t> ids) {
  count = static_cast<int64_t>(ids.size());
  std::copy_n(ids.begin(), std::min<size_t>(ids.size(), kMost), first.begin());
}

absl::Span<const uint64_t> FirstIds::known() const {
  return absl::MakeSpan(first).first(std::min<size_t>(count, kMost));
}

std::vector<double> RankSteps::StepBuckets() {
  return {.0005, .001, .002, .003, .005, .0075, .01, .015, .02, .03, .05,
          .075,  .1,   .15,  .2,   .3,   .5,    1,   2,    5,   10,  30};
}

StepHistory::StepHistory(int ranks) : records_(kSteps), ranks_(ranks) {
  for (StepRecord& record : records_) record.ranks.resize(ranks);
}

void StepHistory::Sent(const StepPlan& plan, int64_t pages_held, double now) {
  StepRecord& record = Of(plan.step);
  record.step = plan.step;
  record.sent = now;
  record.pages_held = pages_held;
  record.retired.Set(plan.retire);
  record.decoded.Set(plan.decode);
  record.admitted.count = static_cast<int64_t>(plan.admit.size());
  for (size_t i = 0; i < record.admitted.known().size(); ++i) {
    record.admitted.first[i] = plan.admit[i].id;
  }
  record.prefilled.count = 0;
  record.layer_begin = record.layer_end = 0;
  if (!plan.prefill.empty()) {
    const PrefillSlice& slice = plan.prefill[0];
    record.prefilled.Set(slice.sequence_ids);
    record.layer_begin = slice.layer_begin;
    record.layer_end = slice.layer_end;
  }
  record.done = 0;
  record.checksum = 0;
  record.tokens = 0;
  std::fill(record.ranks.begin(), record.ranks.end(), RankSeconds());
}

void StepHistory::Done(const GroupResult& result, double now) {
  StepRecord& record = Of(result.step.step);
  record.done = now;
  record.checksum = result.step.checksum;
  record.tokens = static_cast<int64_t>(result.step.tokens.size());
  double fastest = std::numeric_limits<double>::infinity();
  for (const RankSeconds& times : result.ranks) {
    fastest = std::min(fastest, OwnSeconds(times));
  }
  for (size_t r = 0; r < std::min(ranks_.size(), result.ranks.size()); ++r) {
    const RankSeconds& times = result.ranks[r];
    RankSteps& rank = ranks_[r];
    record.ranks[r] = times;
    const bool first = rank.step_seconds.count() == 0;
    rank.step_seconds.Observe(times.step_seconds);
    Follow(times.sum_wait_seconds, first, &rank.sum_wait_seconds);
    Follow(OwnSeconds(times) - fastest, first, &rank.skew_seconds);
  }
}

std::vector<float> StepHistory::RecentSeconds(int rank) const {
  std::vector<float> recent;
  recent.reserve(kSteps);
  for (const StepRecord& record : records_) {
    if (record.done == 0) continue;
    recent.push_back(static_cast<float>(record.ranks[rank].step_seconds));
  }
  return recent;
}

std::vector<const StepRecord*> StepHistory::Records() const {
  std::vector<const StepRecord*> known;
  for (const StepRecord& record : records_) {
    if (record.step != 0) known.push_back(&record);
  }
  std::sort(known.begin(), known.end(),
            [](const auto* a, const auto* b) { return a->step < b->step; });
  return known;
}

}  // namespace h2o
