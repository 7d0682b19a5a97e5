// What sampling options change of logits, and logprobs, on the CPU.  Operations
// are those of kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

void ChangeLogits(Matrix logits, const SequenceState* states,
                  const int32_t* seats, const int32_t* tokens, Matrix undo,
                  Team* team);
void RestoreLogits(Matrix logits, const SequenceState* states,
                   const int32_t* seats, const int32_t* tokens, Matrix undo,
                   Team* team);
void Logprobs(Matrix logits, const SequenceState* states, const int32_t* seats,
              const RowResult* results, LogprobRow* out, Team* team);
void PromptLogprobs(Matrix logits, const int32_t* tokens, int top,
                    LogprobRow* out, Team* team);

}  // namespace h2o::cpu
