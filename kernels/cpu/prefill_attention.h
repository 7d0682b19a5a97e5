// Causal attention over whole prompts, on the CPU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

// What PrefillAttention works in.
Team::Scratch PrefillScratch(int64_t max_prompt, int64_t max_heads);

// Backend::PrefillAttention; weights are softmax(scale * q . k).  Prompts
// without heads are left out: nobody reads their rows of `out`.
void PrefillAttention(Matrix qkv, const PromptBatch& prompts, int layer,
                      int head_dim, float scale, const KvPool& pool, Matrix out,
                      Team* team);

}  // namespace h2o::cpu
