// What the linear layers of few rows share: how outputs and rows are cut into
// register tiles, and what becomes of a tile's sums.  Compiled once for each
// instruction set, hence the guard.
#if defined(H2O_KERNELS_CPU_LINEAR_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef H2O_KERNELS_CPU_LINEAR_TILE_INL_H_
#undef H2O_KERNELS_CPU_LINEAR_TILE_INL_H_
#else
#define H2O_KERNELS_CPU_LINEAR_TILE_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/small_linear.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kOutputs = 4;  // weight rows of one register tile
// Rows of x of one register tile: kOutputs * kRows accumulators, kRows rows of
// x and one weight vector must fit 32 registers (AVX-512) or 16.
constexpr int kRows = HWY_TARGET <= HWY_AVX3 ? 6 : 2;

struct Outputs {
  const float* scales;  // of rows of codes; null: 1
  const float* bias;    // null: none
  Epilogue epilogue;
};

// Writes outputs [n, n + count) of one row.
HWY_INLINE void Finish(const Outputs& o, hn::Vec<F32x4> sums, int64_t n,
                       int64_t count, float* y) {
  const F32x4 d;
  HWY_ALIGN float v[kOutputs];
  hn::Store(sums, d, v);
  for (int64_t i = 0; i < count; ++i) {
    float value = v[i];
    if (o.scales != nullptr) value *= o.scales[n + i];
    value += o.bias != nullptr ? o.bias[n + i] : 0.0f;
    if (o.epilogue == Epilogue::kRelu) value = std::max(value, 0.0f);
    if (o.epilogue == Epilogue::kGelu) value = Gelu(value);
    y[n + i] = value;
  }
}

// Calls run<rows of x>(first row, first output, outputs) for each tile of
// outputs [begin, end).
template <class RunTile>
HWY_INLINE void ForEachTile(int64_t rows, int64_t begin, int64_t end,
                            const RunTile& run) {
  for (int64_t n = begin; n < end; n += kOutputs) {
    const int64_t count = std::min<int64_t>(kOutputs, end - n);
    int64_t m = 0;
    for (; m + kRows <= rows; m += kRows) {
      run.template operator()<kRows>(m, n, count);
    }
    switch (rows - m) {
      case 1:
        run.template operator()<1>(m, n, count);
        break;
      case 2:
        run.template operator()<2>(m, n, count);
        break;
      case 3:
        run.template operator()<3>(m, n, count);
        break;
      case 4:
        run.template operator()<4>(m, n, count);
        break;
      case 5:
        run.template operator()<5>(m, n, count);
        break;
      default:
        break;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
