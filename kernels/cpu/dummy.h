// Random weights, on the CPU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

// Backend::FillDummy.
void FillDummy(const DummyTensor& tensor, DType dtype, void* out,
               int64_t stride, Team* team);

}  // namespace h2o::cpu
