// What is asked of a step beside its tokens: logits of every position, logprobs
// of the prompt, and which tokens each head keeps or evicts.  Large and rare.
//
// All reports wait for the device before they copy.  A copy to pageable host
// memory waits inside the driver, and meanwhile the driver blocks work that
// other ranks of the process enqueue.
//
// Threads  one owner, the step thread.
// Errors   the device's and the communicator's.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/open_sequences.h"
#include "worker/shard_setup.h"
#include "worker/token_head.h"

namespace h2o {

// As it is reported.  REQUIRES: the row has a token.
Logprobs ToLogprobs(const LogprobRow& row);

class StepReports {
 public:
  // Both must outlive the reports.
  StepReports(ShardParts* parts, TokenHead* head)
      : parts_(*parts), head_(*head) {}

  // Adds the logits that TokenHead::Emit computed for row r to the result, if
  // sequence rows[r] wants them; null: the row is nobody's.
  absl::Status AddLogits(absl::Span<OpenSequence* const> rows,
                         StepInFlight* step);
  // Adds those of a prompt's positions but the last, which comes with the first
  // token.  The prompt is rows of Forward::Features from `first_row` on.
  absl::Status AddPromptLogits(const OpenSequence& sequence, int64_t first_row,
                               StepInFlight* step);

  // Adds the logprobs of a prompt's tokens, but for the first and for those
  // that were generated before.  `first_row` as above.
  absl::Status AddPromptLogprobs(const OpenSequence& sequence,
                                 int64_t first_row, StepInFlight* step);

  // Adds what each head kept of a prompt.
  absl::Status AddPromptTrace(const OpenSequence& sequence, StepInFlight* step);
  // Adds what each head evicted in a decode step of `padded` rows.
  absl::Status AddDecodeTrace(absl::Span<OpenSequence* const> rows,
                              int64_t padded, StepInFlight* step);

 private:
  // Calls with(at, logits) for the whole rows of logits of `count` positions
  // from `first_row` of the features on, a part at a time: rows `at` and on.
  absl::Status ForLogitsOf(
      int64_t first_row, int64_t count,
      absl::FunctionRef<absl::Status(int64_t at, Matrix logits)> with);
  // Of the head that is number `local_head` of this rank.
  HeadTrace TraceOf(const OpenSequence& sequence, int layer,
                    int local_head) const;

  ShardParts& parts_;
  TokenHead& head_;
};

}  // namespace h2o
