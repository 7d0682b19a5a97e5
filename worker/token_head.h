// The head of a step: features -> logits -> tokens -> results.  Each rank has
// the logits of its part of the vocabulary; the greatest of each rank are
// exchanged, and the whole rows only where a sequence samples from them,
// changes them or reports them.  Every rank picks the same tokens.
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
  bool whole_logits = false;  // all ranks' logits, for what follows or a report
  bool changes = false;       // Backend::ChangeLogits
  bool sampling = false;
  bool logprobs = false;

  void Add(const OpenSequence& sequence) {
    changes |= sequence.ChangesLogits();
    sampling |= sequence.draws() || sequence.ChangesLogits();
    logprobs |= sequence.spec.top_logprobs >= 0;
    whole_logits |= sampling || logprobs || sequence.spec.logits;
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
  // those that the step emitted before, and of their logprobs if any reports
  // them; null: the sequence was retired.
  void Fetch(absl::Span<OpenSequence* const> sequences, StepInFlight* step);
  // Where they come: valid after step.end, until kMaxInFlight steps later.
  const RowResult* Fetched(const StepInFlight& step) const {
    return RingOf(step.ring);
  }
  // Likewise, of the rows that step.reports_logprobs tells.
  const LogprobRow* FetchedLogprobs(const StepInFlight& step) const {
    return LogprobRingOf(step.ring);
  }

  // Gathers the logits [rows, local vocabulary] of all ranks in WholeLogits.
  absl::Status GatherLogits(Matrix logits);
  // Float32 [rows, vocabulary], of the last step that gathered them.
  Matrix WholeLogits(int64_t rows) const;

 private:
  // Enqueues the choice of tokens from whole rows, which it leaves as they are.
  void Choose(Matrix logits, const int32_t* seats, HeadNeeds needs);
  RowResult* RingOf(int ring) const;
  LogprobRow* LogprobRingOf(int ring) const;
  // Rank 0 alone reports logprobs; they take no exchange.
  bool ReportsLogprobs() const { return parts_.shard.rank == 0; }
  // The ranks' pieces [rows, their vocabulary], which lie one behind the other,
  // side by side in `whole`.
  void JoinPieces(Matrix whole);

  ShardParts& parts_;
};

}  // namespace h2o
