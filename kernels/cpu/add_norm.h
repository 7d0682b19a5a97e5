// Layer norm on the CPU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace h2o {

// x [columns] normalised as Backend::AddNorm does.
void LayerNormRow(const float* x, const LayerNormWeights& weights,
                  int64_t columns, float* out);

}  // namespace h2o
