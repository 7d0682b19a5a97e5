// Embeddings, positions and choices of rows: the CPU twin of cuda/rows.cu.
#include "kernels/cpu/rows.h"

#include <algorithm>

#include "kernels/cpu/small_linear.h"

namespace h2o::cpu {

void Embed(const int32_t* tokens, int32_t first_token,
           const StoredMatrix& table, Matrix out) {
  for (int64_t i = 0; i < out.rows; ++i) {
    const int64_t row = tokens[i] - first_token;
    if (row < 0 || row >= table.rows) {
      std::fill_n(out.Row(i), table.stride, 0.0f);
    } else {
      WidenRows(table, row, row + 1, out.Row(i));
    }
  }
}

void AddPositions(Matrix delta, const int32_t* positions,
                  const StoredMatrix& table, Matrix x, Team* team) {
  float* row = team->OfThread(0);
  for (int64_t i = 0; i < x.rows; ++i) {
    const int64_t position = std::max(positions[i], 0);
    WidenRows(table, position, position + 1, row);
    const float* add = delta.Row(i);
    float* out = x.Row(i);
    for (int64_t j = 0; j < x.columns; ++j) out[j] = add[j] + row[j];
  }
}

void GatherRows(Matrix x, const int32_t* rows, Matrix out) {
  for (int64_t i = 0; i < out.rows; ++i) {
    std::copy_n(x.Row(rows[i]), x.columns, out.Row(i));
  }
}

}  // namespace h2o::cpu
