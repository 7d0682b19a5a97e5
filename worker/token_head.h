// The head of a step: features -> logits -> tokens -> results.  Each rank has
// the logits of its part of the vocabulary; the greatest of each rank are
// exchanged, and the whole rows only where a sequence samples from them or
// reports them.  Every rank picks the same tokens.
//
// Threads  one owner, the step thread.
// Errors   the communicator's.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "worker/open_sequences.h"
#include "worker/shard_setup.h"

namespace h2o {

// What the sequences of a step need beside the greatest logit of each row.
struct HeadNeeds {
  bool whole_logits = false;  // all ranks' logits, to sample or to report
  bool sampling = false;

  void Add(const OpenSequence& sequence) {
    sampling |= sequence.draws();
    whole_logits |= sequence.draws() || sequence.spec.logits;
  }
};

class TokenHead {
 public:
  // `parts` must outlive the head.
  explicit TokenHead(ShardParts* parts) : parts_(*parts) {}

  // Enqueues the next token of each row of features [rows, hidden]; row r is of
  // the sequence at seats[r] (on the device; -1: nobody's).  Moves the states
  // of the sequences on and leaves a RowResult of each row in the workspace.
  absl::Status Emit(Matrix features, const int32_t* seats, HeadNeeds needs);

  // Enqueues the copy of the first sequences.size() results to the host, behind
  // those that the step emitted before; null: the sequence was retired.
  void Fetch(absl::Span<OpenSequence* const> sequences, StepInFlight* step);
  // Where they come: valid after step.end, until kMaxInFlight steps later.
  const RowResult* Fetched(const StepInFlight& step) const {
    return RingOf(step.ring);
  }

  // Gathers the logits [rows, local vocabulary] of all ranks in WholeLogits.
  absl::Status GatherLogits(Matrix logits);
  // Float32 [rows, vocabulary], of the last step that gathered them.
  Matrix WholeLogits(int64_t rows) const;

 private:
  RowResult* RingOf(int ring) const;
  // The ranks' pieces [rows, their vocabulary], which lie one behind the other,
  // side by side in `whole`.
  void JoinPieces(Matrix whole);

  ShardParts& parts_;
};

}  // namespace h2o
