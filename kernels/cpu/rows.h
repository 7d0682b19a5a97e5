// Rows in, rows out: what lies between the matrix products, on the CPU.
// Operations are those of kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

void Embed(const int32_t* tokens, int32_t first_token,
           const StoredMatrix& table, Matrix out);

// Works in x.columns floats of a thread.
void AddPositions(Matrix delta, const int32_t* positions,
                  const StoredMatrix& table, Matrix x, Team* team);

void GatherRows(Matrix x, const int32_t* rows, Matrix out);

}  // namespace h2o::cpu
