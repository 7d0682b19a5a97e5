// What a rank knows of its open sequences and of the steps that it launched.
// Plain data: the passes of a step (prefill_pass, decode_pass), the token head
// and the reports all read it; ShardRunner owns it.
//
// Plans and results are kept apart.  What a launch enqueues depends on plans
// alone, never on results: ranks read results at different times, and a rank
// that acted on one early would enqueue a collective that its peers do not
// join.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/step.h"

namespace h2o {

// A sequence as the plans up to now leave it.
struct OpenSequence {
  SequenceSpec spec;
  int seat = 0;  // its entry of the device's SequenceStates
  bool prefilled = false;
  int32_t planned_tokens = 0;

  int32_t prompt_length() const {
    return static_cast<int32_t>(spec.prompt.size());
  }
  // Position of the token that the step planned last processes.
  int32_t position() const { return prompt_length() + planned_tokens - 2; }
  // Whether its tokens are sampled, not the most probable ones.
  bool draws() const { return spec.sampling.temperature > 0; }
  // Whether logits change before the token that the step planned last chooses.
  bool ChangesLogits() const;

  // Whether a head of its policy keeps scores; whether one will evict tokens.
  bool KeepsScores() const;
  bool Evicts() const;
  // Slots of the head that may store most.
  int32_t LargestCapacity() const;
};

// A prefill between two of its slices: prompts packed side by side, whose
// hidden states wait in the workspace.  A prompt whose sequence was retired
// meanwhile keeps its rows, with id 0.
struct PausedPrefill {
  std::vector<uint64_t> sequence_ids;
  std::vector<int32_t>
      starts;              // [n + 1]: first row of each prompt, and the end
  int32_t next_layer = 0;  // 0: no prefill is paused
};

// A sequence as the results up to now leave it; equal on all ranks.
struct Observed {
  int32_t length = 0;  // prompt and generated tokens
  int32_t last_token = 0;
};

// A plan that is launched and not yet collected.  Marks are Device::Mark's.
struct StepInFlight {
  StepResult result;  // as far as it is known
  int ring = 0;       // which part of the host's ring receives its tokens
  std::vector<uint64_t> emitted;  // whose tokens come, in order; 0: retired
  std::vector<bool> reports_logprobs;  // likewise: whether logprobs come too
  std::vector<uint64_t> retired;
  std::vector<std::pair<uint64_t, int32_t>> admitted;  // with prompt lengths
  int64_t start = 0, prefilled = 0, end = 0;           // marks
  // The end of the step before, if that still ran when this was launched.
  std::optional<int64_t> end_before;
  std::vector<std::pair<int64_t, int64_t>> layers;  // marks around each
};

struct OpenSequences {
  // Of plans launched.
  std::map<uint64_t, OpenSequence> by_id;
  PausedPrefill paused;
  // Of results collected.
  std::map<uint64_t, Observed> observed;

  // Errors: INTERNAL naming an id that is not open.
  absl::StatusOr<OpenSequence*> Find(uint64_t id);
  // The forks of sequence `id` that wait for its prefill, in order of their
  // ids.
  std::vector<OpenSequence*> WaitingForks(uint64_t id);
  // Before `id` is closed: the first fork that waits for it takes its place in
  // the prefill, and the other forks wait for that one.  Returns it; null if
  // none waits.
  OpenSequence* HandOver(uint64_t id);
  // Forgets a sequence and its part of a paused prefill.
  // REQUIRES: `id` is open.
  void Close(uint64_t id);
};

}  // namespace h2o
