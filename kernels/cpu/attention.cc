#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h.
#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kMaxVectors = 4;  // of one pass over the values

// Asks for `count` elements that are read a page later: the hardware looks
// ahead no further than 4 KB, and pages lie anywhere.  Into the second level,
// which takes more requests at a time than the first.
template <class T>
HWY_INLINE void PrefetchRow(const T* p, int count) {
  for (int i = 0; i < count; i += 64 / int{sizeof(T)}) {
    __builtin_prefetch(p + i, /*write=*/0, /*locality=*/2);
  }
}

// out[i] = q . keys[i] for the `count` keys of one page; `next` is read next.
template <class T>
HWY_INLINE void PageDots(const float* HWY_RESTRICT q, const T* keys, int count,
                         int head_dim, const T* next, float* out) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + 4 <= count; i += 4, keys += 4 * head_dim) {
    PrefetchRow(next + i * head_dim, 4 * head_dim);
    VF a = hn::Zero(d), b = a, c = a, e = a;
    for (int j = 0; j < head_dim; j += lanes) {
      const VF x = hn::LoadU(d, q + j);
      a = hn::MulAdd(x, LoadWide(keys + j), a);
      b = hn::MulAdd(x, LoadWide(keys + head_dim + j), b);
      c = hn::MulAdd(x, LoadWide(keys + 2 * head_dim + j), c);
      e = hn::MulAdd(x, LoadWide(keys + 3 * head_dim + j), e);
    }
    hn::StoreU(SumEach(a, b, c, e), hn::CappedTag<float, 4>(), out + i);
  }
  for (; i < count; ++i, keys += head_dim) {
    VF a = hn::Zero(d);
    for (int j = 0; j < head_dim; j += lanes) {
      a = hn::MulAdd(hn::LoadU(d, q + j), LoadWide(keys + j), a);
    }
    out[i] = hn::GetLane(hn::SumOfLanes(d, a));
  }
}

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

template <class T>
HWY_INLINE const T* Keys(const KvPool& pool, const KvHead& head, int page) {
  return reinterpret_cast<const T*>(pool.Page(head.pages[page]) +
                                    pool.layout.KeysOffset());
}
template <class T>
HWY_INLINE const T* Values(const KvPool& pool, const KvHead& head, int page) {
  return reinterpret_cast<const T*>(pool.Page(head.pages[page]) +
                                    pool.layout.ValuesOffset());
}

// acc[kN] += p[i] * values[i] over the slots of all pages; columns from `j`.
template <int kN, class T>
HWY_INLINE void WeightedValues(const KvPool& pool, const KvHead& head,
                               const float* HWY_RESTRICT p, const float* self,
                               int j, float* out) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int head_dim = pool.layout.head_dim;
  VF acc[kN];
  for (int u = 0; u < kN; ++u) acc[u] = hn::Zero(d);
  int32_t slot = 0;
  const T* next = slot < head.num_slots ? Values<T>(pool, head, 0) : nullptr;
  for (int page = 0; slot < head.num_slots; ++page) {
    const T* v = next + j;
    const int32_t end = std::min(slot + kPageSlots, head.num_slots);
    if (end < head.num_slots) next = Values<T>(pool, head, page + 1);
    for (int i = 0; slot < end; ++slot, ++i, v += head_dim) {
      PrefetchRow(next + i * head_dim + j, kN * lanes);
      const VF w = hn::Set(d, p[slot]);
      for (int u = 0; u < kN; ++u) {
        acc[u] = hn::MulAdd(w, LoadWide(v + u * lanes), acc[u]);
      }
    }
  }
  const VF w = hn::Set(d, p[head.num_slots]);
  for (int u = 0; u < kN; ++u) {
    acc[u] = hn::MulAdd(w, hn::LoadU(d, self + j + u * lanes), acc[u]);
    hn::StoreU(acc[u], d, out + j + u * lanes);
  }
}

template <class T>
void Attend(const float* q, const float* k, const float* v, const KvPool& pool,
            const KvHead& head, float* p, float* out) {
  const int head_dim = pool.layout.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  for (int page = 0; page * kPageSlots < head.num_slots; ++page) {
    const int first = page * kPageSlots;
    const int left = head.num_slots - first;
    PageDots(q, Keys<T>(pool, head, page), std::min(kPageSlots, left), head_dim,
             left > kPageSlots ? Keys<T>(pool, head, page + 1)
                               : Values<T>(pool, head, 0),
             p + first);
  }
  PageDots(q, k, 1, head_dim, k, p + head.num_slots);
  const int64_t n = head.num_slots + 1;
  const F32 d;
  const VF inverse = hn::Set(d, 1.0f / ExpRow(p, n, scale));
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, p + i), inverse), d, p + i);
  }
  int j = 0;
  for (; j + kMaxVectors * lanes <= head_dim; j += kMaxVectors * lanes) {
    WeightedValues<kMaxVectors, T>(pool, head, p, v, j, out);
  }
  for (; j < head_dim; j += lanes) {
    WeightedValues<1, T>(pool, head, p, v, j, out);
  }
}

void AttendImpl(const float* q, const float* k, const float* v,
                const KvPool& pool, const KvHead& head, float* p, float* out) {
  switch (pool.layout.dtype) {
    case DType::kFloat32:
      return Attend<float>(q, k, v, pool, head, p, out);
    case DType::kBFloat16:
      return Attend<hwy::bfloat16_t>(q, k, v, pool, head, p, out);
    case DType::kFloat16:
      return Attend<hwy::float16_t>(q, k, v, pool, head, p, out);
  }
}

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
      1.0f / std::sqrt(square / static_cast<float>(columns) + 1e-5f);
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
namespace {

HWY_EXPORT(AttendImpl);
HWY_EXPORT(CausalSoftmaxImpl);
HWY_EXPORT(LayerNormRowImpl);
HWY_EXPORT(ArgMaxRowImpl);

struct Slot {
  std::byte* page;
  int index;  // in the page
};

Slot SlotAt(const KvPool& pool, const KvHead& head, int32_t slot) {
  return {pool.Page(head.pages[slot / kPageSlots]), slot % kPageSlots};
}
float* Scores(const KvPool& pool, std::byte* page) {
  return reinterpret_cast<float*>(page + pool.layout.ScoresOffset());
}
uint16_t* Positions(const KvPool& pool, std::byte* page) {
  return reinterpret_cast<uint16_t*>(page + pool.layout.PositionsOffset());
}

void StoreRow(const float* x, int n, DType dtype, std::byte* run, int index) {
  if (dtype == DType::kFloat32) {
    std::memcpy(reinterpret_cast<float*>(run) + index * n, x,
                n * sizeof(float));
    return;
  }
  for (int i = 0; i < n; ++i) StoreElement(run, dtype, index * n + i, x[i]);
}

void WriteSlot(const float* k, const float* v, float score, int32_t position,
               const KvPool& pool, Slot slot) {
  const KvPageLayout& layout = pool.layout;
  StoreRow(k, layout.head_dim, layout.dtype, slot.page + layout.KeysOffset(),
           slot.index);
  StoreRow(v, layout.head_dim, layout.dtype, slot.page + layout.ValuesOffset(),
           slot.index);
  Scores(pool, slot.page)[slot.index] = score;
  Positions(pool, slot.page)[slot.index] = static_cast<uint16_t>(position);
}

void AddScores(const KvPool& pool, const KvHead& head, const float* p) {
  for (int32_t first = 0; first < head.num_slots; first += kPageSlots) {
    float* scores = Scores(pool, pool.Page(head.pages[first / kPageSlots]));
    const int count = std::min(kPageSlots, head.num_slots - first);
    for (int i = 0; i < count; ++i) scores[i] += p[first + i];
  }
}

// The rule of ChooseVictim over a paged head.
int32_t FindVictim(const KvPool& pool, const KvHead& head, int32_t position) {
  const int32_t first_recent = position - head.slots.recent + 1;
  int32_t victim = -1;
  float least = 0;
  int32_t victim_position = 0;
  for (int32_t first = 0; first < head.num_slots; first += kPageSlots) {
    std::byte* page = pool.Page(head.pages[first / kPageSlots]);
    const float* scores = Scores(pool, page);
    const uint16_t* positions = Positions(pool, page);
    const int count = std::min(kPageSlots, head.num_slots - first);
    for (int i = 0; i < count; ++i) {
      const int32_t at = positions[i];
      if (at < head.slots.sinks || at >= first_recent) continue;
      if (victim < 0 || scores[i] < least ||
          (scores[i] == least && at > victim_position)) {
        victim = first + i;
        least = scores[i];
        victim_position = at;
      }
    }
  }
  H2O_CHECK(victim >= 0) << "no victim at position " << position;
  return victim;
}

}  // namespace

int32_t DecodeHead(const float* q, const float* k, const float* v,
                   int32_t position, const KvPool& pool, KvHead* head,
                   float* probabilities, float* out) {
  HWY_DYNAMIC_DISPATCH(AttendImpl)(q, k, v, pool, *head, probabilities, out);
  float score = 0;
  if (head->slots.score_rule == ScoreRule::kSum) {
    AddScores(pool, *head, probabilities);
    score = probabilities[head->num_slots];
  }
  if (head->num_slots < head->slots.Capacity()) {
    WriteSlot(k, v, score, position, pool,
              SlotAt(pool, *head, head->num_slots));
    ++head->num_slots;
    return -1;
  }
  const Slot victim = SlotAt(pool, *head, FindVictim(pool, *head, position));
  const int32_t evicted = Positions(pool, victim.page)[victim.index];
  WriteSlot(k, v, score, position, pool, victim);
  return evicted;
}

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

void CopyPositions(const KvPool& pool, const KvHead& head, uint16_t* out) {
  for (int32_t slot = 0; slot < head.num_slots; ++slot) {
    const Slot at = SlotAt(pool, head, slot);
    out[slot] = Positions(pool, at.page)[at.index];
  }
}

void LayerNormRow(const float* x, const LayerNormWeights& weights,
                  int64_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(LayerNormRowImpl)(x, weights, columns, out);
}

int64_t ArgMaxRow(const float* x, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(ArgMaxRowImpl)(x, n);
}

}  // namespace h2o
#endif  // HWY_ONCE
