// Softmax of whole prompts and the storing of what a policy keeps of them: the
// CPU twin of cuda/prefill_attention.cu.
#include "kernels/cpu/prefill_attention.h"

#include <algorithm>

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prefill_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/softmax-inl.h"
#include "kernels/cpu/stored_slots.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void CausalSoftmaxImpl(float* scores, int64_t rows, int64_t columns,
                       int64_t stride, int64_t first_length, float scale,
                       float* column_sums) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * stride;
    const int64_t n = first_length + r;
    const VF inverse = hn::Set(d, 1.0f / ExpRow(row, n, scale));
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    for (int64_t i = 0; i < padded; i += lanes) {
      const VF p = hn::Mul(hn::LoadU(d, row + i), inverse);
      hn::StoreU(p, d, row + i);
      if (column_sums != nullptr) {
        hn::StoreU(hn::Add(hn::LoadU(d, column_sums + i), p), d,
                   column_sums + i);
      }
    }
    if (padded < columns) std::fill(row + padded, row + columns, 0.0f);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o {

HWY_EXPORT(CausalSoftmaxImpl);

void CausalSoftmax(float* scores, int64_t rows, int64_t columns, int64_t stride,
                   int64_t first_length, float scale, float* column_sums) {
  HWY_DYNAMIC_DISPATCH(CausalSoftmaxImpl)
  (scores, rows, columns, stride, first_length, scale, column_sums);
}

void StoreKept(absl::Span<const int32_t> kept, const float* keys,
               const float* values, int64_t stride, const float* scores,
               const KvPool& pool, KvHead* head) {
  for (size_t i = 0; i < kept.size(); ++i) {
    const int32_t p = kept[i];
    WriteSlot(keys + p * stride, values + p * stride, scores ? scores[p] : 0.0f,
              p, pool, SlotAt(pool, *head, static_cast<int32_t>(i)));
  }
  head->num_slots = static_cast<int32_t>(kept.size());
}

}  // namespace h2o
#endif  // HWY_ONCE
