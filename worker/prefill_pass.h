// The prefill of a step: a slice of the model's layers over prompts packed side
// by side.  Between two slices the hidden states wait in the workspace, so one
// prefill is under way at a time.  The slice with the last layer also yields
// the first tokens of the prompts and of their forks.
//
// Threads  one owner, the step thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "model/step.h"
#include "worker/forward.h"
#include "worker/open_sequences.h"
#include "worker/shard_setup.h"
#include "worker/step_reports.h"
#include "worker/token_head.h"

namespace h2o {

class PrefillPass {
 public:
  // All must outlive the pass.
  PrefillPass(ShardParts* parts, TokenHead* head, StepReports* reports)
      : parts_(*parts), head_(*head), reports_(*reports) {}

  // Enqueues a slice.  Errors: INTERNAL for one that does not follow from those
  // before it, or the communicator's.
  absl::Status Run(const PrefillSlice& slice, OpenSequences* open,
                   StepInFlight* step);

 private:
  // The prompts of a pass, in the order of their rows; null: retired.
  using Prompts = absl::Span<OpenSequence* const>;

  // Checks the slice and makes a first one the paused prefill.
  absl::Status Begin(const PrefillSlice& slice, OpenSequences* open);
  // Uploads where the prompts start and their heads.
  PromptBatch UploadBatch(Prompts prompts, const PausedPrefill& paused);
  absl::Status Embed(Prompts prompts, Matrix x);
  // The rows behind the last layer's attention: the last token of each prompt
  // that is not retired, and for each fork of it the same once more.
  struct EndRows {
    std::vector<OpenSequence*> sequences;
    std::vector<int> prompts;  // whose last token the row is
  };
  static EndRows EndRowsOf(Prompts prompts, OpenSequences* open);
  // Those tokens; none, meaning every row, if a sequence wants logits or
  // logprobs of the whole prompt.
  Forward::LastRows LastRowsOf(const EndRows& rows,
                               const PausedPrefill& paused);
  // The layers of a slice, each timed.
  absl::Status RunLayers(const PrefillSlice& slice, const PromptBatch& batch,
                         Matrix x, const Forward::LastRows& last,
                         StepInFlight* step);
  // From the last tokens' `features` to the first generated tokens.
  absl::Status End(const EndRows& rows, const PausedPrefill& paused,
                   Matrix features, StepInFlight* step);

  ShardParts& parts_;
  TokenHead& head_;
  StepReports& reports_;
};

}  // namespace h2o
