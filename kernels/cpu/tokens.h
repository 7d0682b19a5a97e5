// From logits to tokens, on the CPU.
#pragma once

#include <cstdint>

namespace h2o {

// The greatest of x[n], of equal ones the first.
int64_t ArgMaxRow(const float* x, int64_t n);

}  // namespace h2o
