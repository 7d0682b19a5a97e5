// Random weights, on the CPU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

// Row `r` of the rectangle; element c goes to out[c], an array of `dtype`.
void FillDummyRow(const DummyTensor& tensor, int64_t r, DType dtype, void* out);

// Backend::FillDummy.
void FillDummy(const DummyTensor& tensor, DType dtype, void* out,
               int64_t stride, Team* team);

}  // namespace h2o::cpu
