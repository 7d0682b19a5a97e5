// From logits to tokens: the CPU twin of cuda/tokens.cu.
#include "kernels/cpu/tokens.h"

#include <algorithm>
#include <limits>

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tokens.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

int64_t ArgMaxRowImpl(const float* x, int64_t n) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  float best = -std::numeric_limits<float>::infinity();
  int64_t i = 0;
  if (n >= lanes) {
    VF greatest = hn::LoadU(d, x);
    for (i = lanes; i + lanes <= n; i += lanes) {
      greatest = hn::Max(greatest, hn::LoadU(d, x + i));
    }
    best = hn::GetLane(hn::MaxOfLanes(d, greatest));
  }
  for (; i < n; ++i) best = std::max(best, x[i]);
  for (i = 0; i < n; ++i) {
    if (x[i] == best) return i;
  }
  return 0;  // all NaN: no token is better than another
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o {

HWY_EXPORT(ArgMaxRowImpl);

int64_t ArgMaxRow(const float* x, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(ArgMaxRowImpl)(x, n);
}

}  // namespace h2o
#endif  // HWY_ONCE
