// Random weights, the same on every machine and for every number of ranks: the
// CPU twin of cuda/dummy.cu.
#include "kernels/cpu/dummy.h"

namespace h2o::cpu {
namespace {

constexpr int64_t kRowsPerItem = 64;
constexpr uint64_t kLanes = 4;  // of one call of CounterRandom

}  // namespace

void FillDummyRow(const DummyTensor& t, int64_t r, DType dtype, void* out) {
  const uint64_t first = (t.row_begin + r) * t.full_columns + t.column_begin;
  r123::Philox4x32::ctr_type random = {};
  for (int64_t c = 0; c < t.columns; ++c) {
    const uint64_t i = first + c;
    if (c == 0 || i % kLanes == 0) {
      random = CounterRandom(t.seed, i / kLanes, t.stream);
    }
    const auto lane = static_cast<int32_t>(random[i % kLanes]);
    const float u = static_cast<float>(lane) * 0x1.0p-31f;
    StoreElement(out, dtype, c, u * t.scale);
  }
}

void FillDummy(const DummyTensor& t, DType dtype, void* out, int64_t stride,
               Team* team) {
  const int64_t row_bytes = stride * SizeOf(dtype);
  team->ParallelFor(t.rows, kRowsPerItem, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      FillDummyRow(t, r, dtype, static_cast<std::byte*>(out) + r * row_bytes);
    }
  });
}

}  // namespace h2o::cpu
