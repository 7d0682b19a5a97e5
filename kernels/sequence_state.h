// What a device knows of an open sequence, so that a decode step needs no word
// from the host: plain numbers, in the memory of the device.
#pragma once

#include <cstdint>

#include "base/finish_reason.h"
#include "base/sampling.h"
#include "kernels/kv_head.h"

namespace h2o {

// One entry an open sequence.
struct SequenceState {
  KvHead* heads = nullptr;          // [layers][heads of this rank]
  const int32_t* forced = nullptr;  // teacher forcing: token t is forced[t]
  int32_t num_forced = 0;
  int32_t token = 0;          // the last one: what the next step processes
  int32_t position = 0;       // where it stands: prompt + num_generated - 1
  int32_t num_generated = 0;  // tokens so far
  int32_t max_tokens = 0;
  int32_t stop_token = -1;  // ends the sequence; -1: none does
  SamplingParams sampling;
  FinishReason finish = FinishReason::kNone;
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
