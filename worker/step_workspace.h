// The memory that steps work in, allocated once: hidden states, the state of
// sequences, the inputs of a step and its results.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/model_config.h"

namespace h2o {

struct StepWorkspace {
  // `max_rows`: of a decode step, padding included.  `max_sequences`: open at
  // once.
  // Errors: RESOURCE_EXHAUSTED if the memory is not there.
  static absl::StatusOr<StepWorkspace> Create(const ModelConfig& config,
                                              const ShardSpec& shard,
                                              int64_t max_rows,
                                              int64_t max_sequences,
                                              Device* device);

  // On the device.  A seat is a sequence's entry of `states`.
  float* prefill_hidden = nullptr;  // [max_positions, hidden stride]
  float* decode_hidden = nullptr;   // [max_rows, hidden stride]
  float* logit_pieces = nullptr;    // of all ranks, one behind the other
  float* whole_logits = nullptr;    // [max_rows, vocabulary stride]

  SequenceState* states = nullptr;  // [max_sequences]
  // [max_sequences, max_positions + 1]: see SequenceState::tokens.
  int32_t* sequence_tokens = nullptr;
  LogitBias* logit_biases = nullptr;  // [max_sequences, kMaxLogitBiases]
  float* logit_undo = nullptr;        // [max_rows, stride of UndoFloats]
  // Inputs of a prefill.
  int32_t* prompt_tokens = nullptr;     // [max_positions]
  int32_t* prompt_positions = nullptr;  // likewise
  int32_t* prompt_starts = nullptr;     // [max_rows + 1]
  int32_t* prompt_ends = nullptr;       // [max_rows]: their last rows
  int32_t* prompt_seats = nullptr;      // [max_rows]; -1: nobody's
  KvHead** prompt_heads = nullptr;      // [max_rows]
  // Inputs of a decode step, and its results.
  int32_t* seats = nullptr;        // [max_rows]; -1: nobody's
  int32_t* row_tokens = nullptr;   // [max_rows]
  int32_t* positions = nullptr;    // [max_rows]
  KvHead** heads = nullptr;        // [max_rows]
  int32_t* evicted = nullptr;      // [layers, rows, local heads]
  BestLogit* best = nullptr;       // [ranks, rows]
  int32_t* next_tokens = nullptr;  // [max_rows]
  RowResult* results = nullptr;    // [max_rows]
  LogprobRow* logprobs = nullptr;  // [max_rows]
  uint16_t* stored = nullptr;      // [local heads, max_positions], for traces

  // On the host: the results of the steps in flight, rings,
  // [PlanRunner::kMaxInFlight][2 * max_sequences].
  RowResult* fetched = nullptr;
  LogprobRow* fetched_logprobs = nullptr;

  Buffer memory;   // all that is on the device
  Buffer staging;  // all that is on the host
};

}  // namespace h2o
