// Linear layers of few rows, and conversions of rows, in vectors.
#include "kernels/cpu/small_linear.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/int4_linear.h"

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/small_linear.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/linear_tile-inl.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// kM rows of x times kOutputs weight rows; `w` gives the rows' addresses.
template <int kM, class W>
HWY_INLINE void RunTile(const Outputs& outputs, const float* HWY_RESTRICT x,
                        int64_t x_stride, const W* const* w, int64_t inputs,
                        int64_t n, int64_t count, float* y, int64_t y_stride) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  VF acc[kM][kOutputs];
  for (int m = 0; m < kM; ++m) {
    for (int i = 0; i < kOutputs; ++i) acc[m][i] = hn::Zero(d);
  }
  for (int64_t k = 0; k < inputs; k += lanes) {
    VF xv[kM];
    for (int m = 0; m < kM; ++m) xv[m] = hn::LoadU(d, x + m * x_stride + k);
    for (int i = 0; i < kOutputs; ++i) {
      const VF wv = LoadWide(w[i] + k);
      for (int m = 0; m < kM; ++m) acc[m][i] = hn::MulAdd(wv, xv[m], acc[m][i]);
    }
  }
  for (int m = 0; m < kM; ++m) {
    Finish(outputs, SumEach(acc[m][0], acc[m][1], acc[m][2], acc[m][3]), n,
           count, y + m * y_stride);
  }
}

template <class W>
void Run(Matrix x, const LinearWeights& weights, const Outputs& outputs,
         int64_t begin, int64_t end, Matrix y) {
  const W* base = static_cast<const W*>(weights.weight.data);
  const int64_t stride = weights.weight.stride;
  const int64_t inputs = AlignedStride(weights.weight.columns);
  ForEachTile(x.rows, begin, end,
              [&]<int kM>(int64_t m, int64_t n, int64_t count) {
                const W* w[kOutputs];
                for (int i = 0; i < kOutputs; ++i) {
                  w[i] = base + (n + std::min<int64_t>(i, count - 1)) * stride;
                }
                RunTile<kM>(outputs, x.Row(m), x.stride, w, inputs, n, count,
                            y.Row(m), y.stride);
              });
}

void SmallLinearImpl(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                     int64_t begin, int64_t end, Matrix y) {
  const Outputs outputs{weights.weight.RowScales(),
                        static_cast<const float*>(weights.bias), epilogue};
  DispatchFormat(weights.weight.format, [&](auto stored) {
    Run<decltype(stored)>(x, weights, outputs, begin, end, y);
  });
}

template <class W>
void Widen(const void* in, int64_t n, float* out) {
  const F32 d;
  const W* p = static_cast<const W*>(in);
  for (int64_t i = 0; i < n; i += hn::Lanes(d)) {
    hn::StoreU(LoadWide(p + i), d, out + i);
  }
}

void WidenImpl(const void* in, WeightFormat format, int64_t n, float* out) {
  DispatchFormat(format,
                 [&](auto stored) { Widen<decltype(stored)>(in, n, out); });
}

void ScaleImpl(float scale, int64_t n, float* out) {
  const F32 d;
  const VF s = hn::Set(d, scale);
  for (int64_t i = 0; i < n; i += hn::Lanes(d)) {
    hn::StoreU(hn::Mul(hn::LoadU(d, out + i), s), d, out + i);
  }
}

void RoundToBFloat16Impl(const float* x, int64_t n, uint16_t* out) {
  const F32 d;
  const hn::RebindToUnsigned<F32> du;
  const hn::Rebind<uint16_t, F32> dh;
  for (int64_t i = 0; i < n; i += hn::Lanes(d)) {
    const VF v = hn::LoadU(d, x + i);
    const auto bits = hn::BitCast(du, v);
    // As ToBFloat16: nearest even, and a NaN stays one.
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    const auto rounded = hn::Add(bits, hn::Add(hn::Set(du, 0x7fff), odd));
    const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
    const auto result =
        hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
    hn::StoreU(hn::TruncateTo(dh, hn::ShiftRight<16>(result)), dh, out + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o::cpu {

HWY_EXPORT(SmallLinearImpl);
HWY_EXPORT(WidenImpl);
HWY_EXPORT(ScaleImpl);
HWY_EXPORT(RoundToBFloat16Impl);

void SmallLinear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                 int64_t begin, int64_t end, Matrix y) {
  if (weights.weight.format == WeightFormat::kInt4) {
    return Int4Linear(x, weights, epilogue, begin, end, y);
  }
  HWY_DYNAMIC_DISPATCH(SmallLinearImpl)
  (x, weights, epilogue, begin, end, y);
}

void WidenRows(const StoredMatrix& stored, int64_t begin, int64_t end,
               float* out) {
  if (stored.format == WeightFormat::kInt4) {
    return WidenInt4Rows(stored, begin, end, out);
  }
  const int64_t inputs = AlignedStride(stored.columns);
  for (int64_t r = begin; r < end; ++r, out += inputs) {
    HWY_DYNAMIC_DISPATCH(WidenImpl)(stored.Row(r), stored.format, inputs, out);
    if (stored.scales == nullptr) continue;
    HWY_DYNAMIC_DISPATCH(ScaleImpl)(stored.RowScales()[r], inputs, out);
  }
}

void RoundToBFloat16(const float* x, int64_t n, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(RoundToBFloat16Impl)(x, n, out);
}

float Gelu(float x) {
  return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
}

}  // namespace h2o::cpu
#endif  // HWY_ONCE
