// Sums outer products of inputs, tile by tile.
#include "quantize/input_moments.h"

#include <algorithm>

#include "base/status_macros.h"
#include "kernels/cpu/matrix_product.h"

namespace h2o {
namespace {

constexpr int64_t kTile = 256;

}  // namespace

absl::StatusOr<UpperMatrix> UpperMatrix::Create(int64_t size) {
  UpperMatrix matrix;
  H2O_ASSIGN_OR_RETURN(
      matrix.memory_,
      Buffer::AllocateHost(size * size * int64_t{sizeof(float)}));
  matrix.size_ = size;
  return matrix;
}

void UpperMatrix::ForEachTile(int64_t size, ThreadPool* pool,
                              absl::FunctionRef<void(Range, Range)> fn) {
  const int64_t tiles = CeilDiv(size, kTile);
  const auto tile = [&](int64_t i) {
    return Range{i * kTile, std::min((i + 1) * kTile, size)};
  };
  pool->ParallelFor(tiles * tiles, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / tiles, column = i % tiles;
      if (row <= column) fn(tile(row), tile(column));
    }
  });
}

void AddMoments(Matrix x, UpperMatrix* moments, ThreadPool* pool) {
  const int64_t n = moments->size();
  UpperMatrix::ForEachTile(n, pool, [&](Range rows, Range columns) {
    cpu::AddOuterProducts(rows.size(), columns.size(), x.rows,
                          x.Row(0) + rows.begin, x.stride,
                          x.Row(0) + columns.begin, x.stride,
                          moments->Row(rows.begin) + columns.begin, n);
  });
}

}  // namespace h2o
