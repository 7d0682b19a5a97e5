// What a device knows of an open sequence, so that a decode step needs no input
// from the host: plain numbers, in the memory of the device.
#pragma once

#include <cstdint>

#include "base/finish_reason.h"
#include "base/sampling.h"
#include "kernels/kv_head.h"

namespace h2o {

// One entry for each open sequence; the index of its entry is its seat.
struct SequenceState {
  KvHead* heads = nullptr;  // [layers][heads of this rank]
  // The sequence's tokens by position: the prompt's p are tokens[0..p-1],
  // generated token t is tokens[p + t].  The first num_forced of the generated
  // ones are given (teacher forcing); Advance writes the others, so
  // tokens[0..position] are always known.
  int32_t* tokens = nullptr;
  int32_t num_forced = 0;
  int32_t token = 0;          // tokens[position]: what the next step processes
  int32_t position = 0;       // of the last token: p + num_generated - 1
  int32_t num_generated = 0;  // tokens so far
  int32_t max_tokens = 0;
  SamplingParams sampling;
  FinishReason finish = FinishReason::kNone;
  // The tokens that end the sequence: the first num_stop_tokens of them.
  int32_t num_stop_tokens = 0;
  int32_t stop_tokens[kMaxStopTokens] = {};
};

// The best logit of a row among the columns of one rank.
struct BestLogit {
  float logit = 0;
  int32_t token = 0;
};

// What a step gave one row.
struct RowResult {
  int32_t token = -1;  // -1: the row did not run
  FinishReason finish = FinishReason::kNone;
};

}  // namespace h2o
