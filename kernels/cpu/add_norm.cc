// Residual additions and layer norms: the CPU twin of cuda/add_norm.cu.
#include "kernels/cpu/add_norm.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/add_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void LayerNormRowImpl(const float* x, const LayerNormWeights& weights,
                      int64_t columns, float* out) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t whole = columns / lanes * lanes;
  VF sums = hn::Zero(d);
  for (int64_t i = 0; i < whole; i += lanes) {
    sums = hn::Add(sums, hn::LoadU(d, x + i));
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (int64_t i = whole; i < columns; ++i) sum += x[i];
  const float mean = sum / static_cast<float>(columns);
  const VF means = hn::Set(d, mean);
  VF squares = hn::Zero(d);
  for (int64_t i = 0; i < whole; i += lanes) {
    const VF c = hn::Sub(hn::LoadU(d, x + i), means);
    squares = hn::MulAdd(c, c, squares);
  }
  float square = hn::GetLane(hn::SumOfLanes(d, squares));
  for (int64_t i = whole; i < columns; ++i) {
    square += (x[i] - mean) * (x[i] - mean);
  }
  const float inverse =
      1.0f / std::sqrt(square / static_cast<float>(columns) + weights.epsilon);
  const VF inverses = hn::Set(d, inverse);
  for (int64_t i = 0; i < whole; i += lanes) {
    VF y = hn::Mul(hn::Sub(hn::LoadU(d, x + i), means), inverses);
    if (weights.weight) y = hn::Mul(y, hn::LoadU(d, weights.weight + i));
    if (weights.bias) y = hn::Add(y, hn::LoadU(d, weights.bias + i));
    hn::StoreU(y, d, out + i);
  }
  for (int64_t i = whole; i < columns; ++i) {
    const float y = (x[i] - mean) * inverse;
    out[i] = y * (weights.weight ? weights.weight[i] : 1.0f) +
             (weights.bias ? weights.bias[i] : 0.0f);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o::cpu {

HWY_EXPORT(LayerNormRowImpl);

namespace {

constexpr int64_t kRowsPerItem = 16;

// x += delta + bias.
void AddTo(float* x, const float* delta, const float* bias, int64_t columns) {
  if (bias == nullptr) {
    for (int64_t j = 0; j < columns; ++j) x[j] += delta[j];
  } else {
    for (int64_t j = 0; j < columns; ++j) x[j] += delta[j] + bias[j];
  }
}

// x [columns] normalised; `out` may be `x`.
void LayerNormRow(const float* x, const LayerNormWeights& weights,
                  int64_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(LayerNormRowImpl)(x, weights, columns, out);
}

}  // namespace

void AddNorm(Matrix x, const Delta& delta, const void* bias, NormPlace place,
             const LayerNormWeights& weights, Matrix out, Team* team) {
  H2O_CHECK(delta.peers == nullptr) << "the CPU sums through a communicator";
  const float* add = static_cast<const float*>(bias);
  team->ParallelFor(x.rows, kRowsPerItem, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = x.Row(r);
      if (delta.mine) AddTo(row, delta.mine.Row(r), add, x.columns);
      if (place == NormPlace::kAfter) {
        LayerNormRow(row, weights, x.columns, row);
      }
      if (!out) continue;
      if (place == NormPlace::kBefore) {
        LayerNormRow(row, weights, x.columns, out.Row(r));
      } else {
        std::copy_n(row, x.columns, out.Row(r));
      }
    }
  });
}

}  // namespace h2o::cpu
#endif  // HWY_ONCE
