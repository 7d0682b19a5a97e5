// From logits to tokens, on the CPU.  Operations are those of
// kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

void BeginDecode(const SequenceState* states, const int32_t* seats,
                 int64_t rows, int32_t* tokens, int32_t* positions,
                 KvHead** heads);
void ArgMax(Matrix logits, int32_t first_token, BestLogit* best, Team* team);
void PickBest(const BestLogit* of_ranks, int ranks, int64_t rows,
              int32_t* tokens);
void Sample(Matrix logits, const SequenceState* states, const int32_t* seats,
            int32_t* tokens, Team* team);
void Advance(SequenceState* states, const int32_t* seats, int64_t rows,
             const int32_t* tokens, RowResult* results);
void SumScores(const SequenceState* states, const int32_t* seats, int64_t rows,
               int num_heads, const KvPool& pool, RowResult* results,
               Team* team);

// What Sample works in, a thread.
int64_t SampleScratchFloats(int64_t vocabulary);

}  // namespace h2o::cpu
