// The decode of a step: one token of every sequence that the plan names.  What
// it enqueues is the same for steps of one shape, so that a GPU records it as a
// CUDA graph and replays it; tokens and positions come from the device's
// SequenceStates, not from the host.
//
// Threads  one owner, the step thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "worker/open_sequences.h"
#include "worker/shard_setup.h"
#include "worker/step_reports.h"
#include "worker/token_head.h"

namespace h2o {

class DecodePass {
 public:
  // All must outlive the pass.
  DecodePass(ShardParts* parts, TokenHead* head, StepReports* reports)
      : parts_(*parts), head_(*head), reports_(*reports) {}

  // Enqueues one token of each of `ids`.  Errors: INTERNAL for a sequence that
  // is not open or not prefilled, or the communicator's.
  absl::Status Run(const std::vector<uint64_t>& ids, OpenSequences* open,
                   StepInFlight* step);

 private:
  // What a decode step enqueues depends on; steps of one shape are one CUDA
  // graph.
  struct Shape {
    int64_t rows = 0;  // padding included
    DecodeBatch batch;
    HeadNeeds needs;

    uint64_t Key() const;
  };

  // Counts a token of each sequence as planned.
  absl::Status Plan(const std::vector<uint64_t>& ids, OpenSequences* open,
                    std::vector<OpenSequence*>* rows);
  Shape ShapeOf(const std::vector<OpenSequence*>& rows) const;
  void UploadSeats(const std::vector<OpenSequence*>& rows, int64_t padded);
  absl::Status Enqueue(const Shape& shape);

  ShardParts& parts_;
  TokenHead& head_;
  StepReports& reports_;
  std::vector<int32_t> uploaded_seats_;  // what the device's `seats` holds
};

// Decode steps are recorded for classes of lengths: the class is the most slots
// that a head may store, here for heads that store up to `slots`.  A power of
// two, at least 256, but no more than the pages of the longest sequence have,
// which is what backends are made for.
int32_t DecodeSlotClass(int32_t slots, int64_t max_positions);

}  // namespace h2o
