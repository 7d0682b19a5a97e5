// The device memory that steps work in, taken once: hidden states, the state of
// sequences, a step's inputs and what it finds out.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/model_config.h"

namespace h2o {

struct StepWorkspace {
  // `max_rows`: of a decode step, padding included.
  // Errors: RESOURCE_EXHAUSTED if the memory is not there.
  static absl::StatusOr<StepWorkspace> Create(const ModelConfig& config,
                                              const ShardSpec& shard,
                                              int64_t max_rows,
                                              int64_t max_sequences,
                                              Device* device);

  float* prefill_hidden = nullptr;  // [max_positions, hidden stride]
  float* decode_hidden = nullptr;   // [max_rows, hidden stride]
  float* logit_pieces = nullptr;    // of the ranks, one behind the other
  float* whole_logits = nullptr;    // [max_rows, vocabulary stride]

  SequenceState* states = nullptr;  // [max_sequences]
  int32_t* forced = nullptr;        // [max_sequences, max_positions]
  // Inputs of a prefill.
  int32_t* prompt_tokens = nullptr;     // [max_positions]
  int32_t* prompt_positions = nullptr;  // likewise
  int32_t* prompt_starts = nullptr;     // [max_rows + 1]
  int32_t* prompt_ends = nullptr;       // [max_rows]: their last rows
  int32_t* prompt_slots = nullptr;      // [max_rows]
  KvHead** prompt_heads = nullptr;      // [max_rows]
  // Inputs of a decode step, and what it finds out.
  int32_t* slots = nullptr;       // [max_rows]
  int32_t* row_tokens = nullptr;  // [max_rows]
  int32_t* positions = nullptr;   // [max_rows]
  KvHead** heads = nullptr;       // [max_rows]
  int32_t* evicted = nullptr;     // [layers, rows, local heads]
  BestLogit* best = nullptr;      // [ranks, rows]
  int32_t* tokens = nullptr;      // [max_rows]
  RowResult* results = nullptr;   // [max_rows]
  uint16_t* stored = nullptr;     // [local heads, max_positions], for traces

  Buffer memory;  // all of the above
};

}  // namespace h2o
