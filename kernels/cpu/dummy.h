// Random weights, on the CPU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

// Backend::FillDummy and FillDummyCodes.
void FillDummy(const DummyTensor& tensor, DType dtype, void* out,
               int64_t stride, Team* team);
void FillDummyCodes(const DummyTensor& tensor, WeightFormat format, void* out,
                    int64_t row_bytes, Team* team);

}  // namespace h2o::cpu
