// Linear layers of few rows, and conversions of rows, in vectors.
#include "kernels/cpu/small_linear.h"

#include <algorithm>
#include <cmath>

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/small_linear.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kOutputs = 4;  // weight rows of one register tile
// Rows of x of one register tile: kOutputs * kRows accumulators, kRows rows of
// x and one weight vector must fit 32 registers (AVX-512) or 16.
constexpr int kRows = HWY_TARGET <= HWY_AVX3 ? 6 : 2;

struct Tile {
  const float* bias;
  Epilogue epilogue;
};

// Writes `count` outputs of one row.
HWY_INLINE void Finish(const Tile& t, hn::Vec<F32x4> sums, int64_t n,
                       int64_t count, float* y) {
  const F32x4 d;
  HWY_ALIGN float v[kOutputs];
  hn::Store(sums, d, v);
  for (int64_t i = 0; i < count; ++i) {
    float value = v[i] + (t.bias ? t.bias[n + i] : 0.0f);
    if (t.epilogue == Epilogue::kRelu) value = std::max(value, 0.0f);
    if (t.epilogue == Epilogue::kGelu) value = Gelu(value);
    y[n + i] = value;
  }
}

// kM rows of x times kOutputs weight rows; `w` gives the rows' addresses.
template <int kM, class W>
HWY_INLINE void RunTile(const Tile& tile, const float* HWY_RESTRICT x,
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
    Finish(tile, SumEach(acc[m][0], acc[m][1], acc[m][2], acc[m][3]), n, count,
           y + m * y_stride);
  }
}

template <class W>
void Run(Matrix x, const LinearWeights& weights, const Tile& tile,
         int64_t begin, int64_t end, Matrix y) {
  const W* base = static_cast<const W*>(weights.weight.data);
  const int64_t stride = weights.weight.stride;
  for (int64_t n = begin; n < end; n += kOutputs) {
    const int64_t count = std::min<int64_t>(kOutputs, end - n);
    const W* w[kOutputs];
    for (int i = 0; i < kOutputs; ++i) {
      w[i] = base + (n + std::min<int64_t>(i, count - 1)) * stride;
    }
    int64_t m = 0;
    for (; m + kRows <= x.rows; m += kRows) {
      RunTile<kRows>(tile, x.Row(m), x.stride, w, stride, n, count, y.Row(m),
                     y.stride);
    }
    const auto rest = [&]<int kM>() {
      RunTile<kM>(tile, x.Row(m), x.stride, w, stride, n, count, y.Row(m),
                  y.stride);
    };
    switch (x.rows - m) {
      case 1:
        rest.template operator()<1>();
        break;
      case 2:
        rest.template operator()<2>();
        break;
      case 3:
        rest.template operator()<3>();
        break;
      case 4:
        rest.template operator()<4>();
        break;
      case 5:
        rest.template operator()<5>();
        break;
      default:
        break;
    }
  }
}

void SmallLinearImpl(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                     int64_t begin, int64_t end, Matrix y) {
  const Tile tile{static_cast<const float*>(weights.bias), epilogue};
  DispatchDType(weights.weight.dtype, [&](auto stored) {
    Run<decltype(stored)>(x, weights, tile, begin, end, y);
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

void WidenImpl(const void* in, DType dtype, int64_t n, float* out) {
  DispatchDType(dtype,
                [&](auto stored) { Widen<decltype(stored)>(in, n, out); });
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
HWY_EXPORT(RoundToBFloat16Impl);

void SmallLinear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                 int64_t begin, int64_t end, Matrix y) {
  HWY_DYNAMIC_DISPATCH(SmallLinearImpl)
  (x, weights, epilogue, begin, end, y);
}

void WidenRows(const StoredMatrix& stored, int64_t begin, int64_t end,
               float* out) {
  HWY_DYNAMIC_DISPATCH(WidenImpl)
  (stored.Row(begin), stored.dtype, (end - begin) * stored.stride, out);
}

void RoundToBFloat16(const float* x, int64_t n, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(RoundToBFloat16Impl)(x, n, out);
}

float Gelu(float x) {
  return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
}

}  // namespace h2o::cpu
#endif  // HWY_ONCE
