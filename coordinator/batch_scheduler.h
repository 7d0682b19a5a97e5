// The BatchScheduler makes step plans from the admitted sequences: continuous
// batching with prefill sliced by layers.
//
// A plan decodes one token of every sequence whose prompt is done.  It also
// prefills, in order of arrival, as many whole layers as fit the stall target.
// So a running stream waits at most one slice.  The result of a sliced prefill
// is exactly that of an unsliced one.  When no sequence is decoding, a prompt
// runs whole, unless that takes longer than the longest step allowed.  If the
// group packs prompts (packed prefill), prompts that wait together run in one
// pass, and the weights are read once for all of them.  A fork is not
// prefilled: it decodes as soon as its source does.
//
// Pure: no clock, no lock, no network; the same calls give the same plans.
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <unordered_map>
#include <vector>

#include "model/step.h"

namespace h2o {

class BatchScheduler {
 public:
  // `packed_tokens`: see GroupInfo.  While no sequence is decoding, a plan's
  // prefill takes at most `longest_step_seconds`, or one layer.
  BatchScheduler(
      int num_layers, double stall_target_seconds, int64_t packed_tokens = 0,
      double longest_step_seconds = std::numeric_limits<double>::infinity())
      : num_layers_(num_layers),
        stall_target_seconds_(stall_target_seconds),
        longest_step_seconds_(longest_step_seconds),
        packed_tokens_(packed_tokens) {}

  // The sequence's pages are promised; it enters with the next plan.
  void Admit(SequenceSpec spec);

  // The sequence is over: no further plan runs it, the next one retires it.
  // REQUIRES: it was admitted and is not retired.
  void Retire(uint64_t id);

  // Whether a plan would do anything.
  bool HasWork() const;

  // The next plan.  REQUIRES: HasWork().
  StepPlan MakePlan();

  // Learns the speed of prefill from a result of a plan of this scheduler.
  void Observe(const StepResult& result);

 private:
  struct Progress {
    int32_t prompt_tokens = 0;
    int32_t max_tokens = 0;
    int32_t planned_tokens = 0;  // the first comes with the last layer
    // Until the prompt is done: what it is a fork of, and its forks.
    uint64_t fork_of = 0;
    std::vector<uint64_t> forks;
  };
  // Prompts that go through the layers together.
  struct Pack {
    std::vector<uint64_t> ids;
    int32_t tokens = 0;
    int32_t planned_layers = 0;
  };

  // A sequence is gone before its prompt was done: the first of its forks takes
  // its place, as on the workers (SequenceSpec::fork_of).
  void HandOver(uint64_t id, const std::vector<uint64_t>& forks);
  void PlanPrefill(bool anyone_decodes, StepPlan* plan);
  void FillPack();
  // All layers of the pack are planned: its sequences decode from now on.
  void EndPack();
  void Decode(uint64_t id);
  double EstimateLayerSeconds(int32_t tokens) const;

  const int num_layers_;
  const double stall_target_seconds_;
  const double longest_step_seconds_;
  const int64_t packed_tokens_;
  uint64_t next_step_ = 1;
  std::vector<SequenceSpec> admitted_;  // since the last plan
  std::vector<uint64_t> retired_;       // likewise
  Pack pack_;                           // empty: none is under way
  std::deque<uint64_t> to_prefill_;     // behind it, in order of arrival
  std::vector<uint64_t> to_decode_;     // prompt done, tokens left to plan
  std::unordered_map<uint64_t, Progress> sequences_;

  // Plans that are not answered yet: tokens of their largest pack.
  std::deque<int32_t> unanswered_;
  // The slowest layer seen lately, and the tokens it was seen with.
  double layer_seconds_ = 0;
  int32_t layer_tokens_ = 0;
};

}  // namespace h2o
