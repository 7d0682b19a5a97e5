// Softmax of one row, for both attention kernels, compiled once for each
// instruction set.  Highway includes this header once a target, hence the
// guard.
#if defined(H2O_KERNELS_CPU_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef H2O_KERNELS_CPU_SOFTMAX_INL_H_
#undef H2O_KERNELS_CPU_SOFTMAX_INL_H_
#else
#define H2O_KERNELS_CPU_SOFTMAX_INL_H_
#endif

#include <algorithm>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// x[i] = exp(scale * x[i] - maximum of that) for i < n, zero up to the next
// multiple of the vector length.  Returns their sum.
HWY_INLINE float ExpRow(float* HWY_RESTRICT x, int64_t n, float scale) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t padded = (n + lanes - 1) / lanes * lanes;
  std::fill(x + n, x + padded, -std::numeric_limits<float>::infinity());
  VF greatest = hn::LoadU(d, x);
  for (int64_t i = lanes; i < padded; i += lanes) {
    greatest = hn::Max(greatest, hn::LoadU(d, x + i));
  }
  const VF shift = hn::Mul(hn::MaxOfLanes(d, greatest), hn::Set(d, scale));
  const VF factor = hn::Set(d, scale);
  VF sum = hn::Zero(d);
  for (int64_t i = 0; i < padded; i += lanes) {
    const VF raw = hn::LoadU(d, x + i);
    // exp of minus infinity is taken as zero, not left to the library.
    const VF e = hn::IfThenZeroElse(
        hn::Lt(raw, hn::Set(d, std::numeric_limits<float>::lowest())),
        hn::Exp(d, hn::MulSub(raw, factor, shift)));
    sum = hn::Add(sum, e);
    hn::StoreU(e, d, x + i);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
