// Residual additions and layer norms, on the CPU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

// Backend::AddNorm.  REQUIRES: delta.peers is null.
void AddNorm(Matrix x, const Delta& delta, const void* bias, NormPlace place,
             const LayerNormWeights& weights, Matrix out, Team* team);

// x [columns] normalised as AddNorm does.
void LayerNormRow(const float* x, const LayerNormWeights& weights,
                  int64_t columns, float* out);

}  // namespace h2o::cpu
