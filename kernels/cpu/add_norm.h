// Residual additions and layer norms, on the CPU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

// Backend::AddNorm.  REQUIRES: delta.peers is null.
void AddNorm(Matrix x, const Delta& delta, const void* bias, NormPlace place,
             const LayerNormWeights& weights, Matrix out, Team* team);

}  // namespace h2o::cpu
