// Vector operations that the CPU kernels share, compiled once for each
// instruction set.  Highway includes this header once a target, hence the
// guard.
#if defined(H2O_KERNELS_CPU_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef H2O_KERNELS_CPU_VECTORS_INL_H_
#undef H2O_KERNELS_CPU_VECTORS_INL_H_
#else
#define H2O_KERNELS_CPU_VECTORS_INL_H_
#endif

#include "base/dtype.h"
#include "base/weight_format.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using F32x4 = hn::CappedTag<float, 4>;
using VF = hn::Vec<F32>;

// A vector of stored elements as float32.
HWY_INLINE VF LoadWide(const float* p) { return hn::LoadU(F32(), p); }
HWY_INLINE VF LoadWide(const hwy::float16_t* p) {
  return hn::PromoteTo(F32(), hn::LoadU(hn::Rebind<hwy::float16_t, F32>(), p));
}
HWY_INLINE VF LoadWide(const hwy::bfloat16_t* p) {
  return hn::PromoteTo(F32(), hn::LoadU(hn::Rebind<hwy::bfloat16_t, F32>(), p));
}

HWY_INLINE VF LoadWide(const int8_t* p) {
  const hn::Rebind<int32_t, F32> di;
  return hn::ConvertTo(
      F32(), hn::PromoteTo(di, hn::LoadU(hn::Rebind<int8_t, F32>(), p)));
}

// An e4m3 code is a float16 of 2^-8 times its value: sign, four bits of the
// exponent with another bias, three of the fraction.
struct Fp8Code {
  uint8_t bits;
};
HWY_INLINE VF LoadWide(const Fp8Code* p) {
  const hn::Rebind<uint16_t, F32> dh;
  const auto code =
      hn::PromoteTo(dh, hn::LoadU(hn::Rebind<uint8_t, F32>(),
                                  reinterpret_cast<const uint8_t*>(p)));
  const auto sign = hn::ShiftLeft<8>(hn::And(code, hn::Set(dh, 0x80)));
  const auto rest = hn::ShiftLeft<7>(hn::And(code, hn::Set(dh, 0x7f)));
  const auto half =
      hn::BitCast(hn::Rebind<hwy::float16_t, F32>(), hn::Or(sign, rest));
  return hn::Mul(hn::PromoteTo(F32(), half), hn::Set(F32(), 256.0f));
}

// Calls fn with a value of the type in which elements of `dtype` are stored.
template <class Fn>
HWY_INLINE void DispatchDType(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::kFloat32:
      return fn(float());
    case DType::kBFloat16:
      return fn(hwy::bfloat16_t());
    case DType::kFloat16:
      return fn(hwy::float16_t());
  }
}

// The same of weights.  REQUIRES: an element has bytes of its own.
template <class Fn>
HWY_INLINE void DispatchFormat(WeightFormat format, Fn&& fn) {
  if (IsPlain(format)) return DispatchDType(DTypeOf(format), fn);
  if (format == WeightFormat::kInt8) return fn(int8_t());
  H2O_CHECK(format == WeightFormat::kFp8);
  return fn(Fp8Code());
}

// Adds the 128-bit blocks of `v`.
template <class D, class V>
HWY_INLINE hn::Vec<F32x4> SumBlocks(D /*d*/, V v) {
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    return SumBlocks(half,
                     hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    return v;
  }
}

// {sum of a, sum of b, sum of c, sum of e}.
HWY_INLINE hn::Vec<F32x4> SumEach(VF a, VF b, VF c, VF e) {
  const F32 d;
  const hn::RepartitionToWide<F32> dw;
  const VF ab =
      hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const VF ce =
      hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto ab64 = hn::BitCast(dw, ab);
  const auto ce64 = hn::BitCast(dw, ce);
  const VF sums = hn::Add(hn::BitCast(d, hn::InterleaveLower(dw, ab64, ce64)),
                          hn::BitCast(d, hn::InterleaveUpper(dw, ab64, ce64)));
  return SumBlocks(d, sums);
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
