// Attention of one new token of one head, and the choice of the slot that the
// token is written to: the CPU twin of cuda/decode_attention.cu.
#include "kernels/cpu/decode_attention.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/stored_slots.h"

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/decode_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/softmax-inl.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kMaxVectors = 4;  // of one pass over the values

// Prefetches `count` elements that are read a page later.  The hardware does
// not prefetch beyond 4 KB, and pages may lie anywhere.  Prefetches go to the
// L2 cache, which takes more requests at a time than L1.
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

template <class T>
HWY_INLINE const T* Keys(const KvPool& pool, const KvHead& head, int32_t slot) {
  return reinterpret_cast<const T*>(pool.PageOf(head, slot) +
                                    pool.Layout(head).KeysOffset());
}
template <class T>
HWY_INLINE const T* Values(const KvPool& pool, const KvHead& head,
                           int32_t slot) {
  return reinterpret_cast<const T*>(pool.PageOf(head, slot) +
                                    pool.Layout(head).ValuesOffset());
}

// acc[kN] += p[i] * values[i] over the slots of all pages; columns from `j`.
template <int kN, class T>
HWY_INLINE void WeightedValues(const KvPool& pool, const KvHead& head,
                               const float* HWY_RESTRICT p, const float* self,
                               int j, float* out) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int head_dim = pool.head_dim;
  VF acc[kN];
  for (int u = 0; u < kN; ++u) acc[u] = hn::Zero(d);
  int32_t slot = 0;
  const T* next = slot < head.num_slots ? Values<T>(pool, head, 0) : nullptr;
  while (slot < head.num_slots) {
    const T* v = next + j;
    const int32_t end = std::min(slot + kPageSlots, head.num_slots);
    if (end < head.num_slots) next = Values<T>(pool, head, end);
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
void Attend(const float* q, const float* k, const float* v, float scale,
            const KvPool& pool, const KvHead& head, float* p, float* out) {
  const int head_dim = pool.head_dim;
  for (int32_t first = 0; first < head.num_slots; first += kPageSlots) {
    const int32_t left = head.num_slots - first;
    PageDots(q, Keys<T>(pool, head, first), std::min(kPageSlots, left),
             head_dim,
             left > kPageSlots ? Keys<T>(pool, head, first + kPageSlots)
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

void AttendImpl(const float* q, const float* k, const float* v, float scale,
                const KvPool& pool, const KvHead& head, float* p, float* out) {
  DispatchDType(head.format.dtype, [&](auto stored) {
    Attend<decltype(stored)>(q, k, v, scale, pool, head, p, out);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o::cpu {
namespace {

HWY_EXPORT(AttendImpl);

void AddScores(const KvPool& pool, const KvHead& head, const float* p) {
  for (int32_t first = 0; first < head.num_slots; first += kPageSlots) {
    float* scores = ScoreAt(pool, head, first);
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
    const float* scores = ScoreAt(pool, head, first);
    const uint16_t* positions = PositionAt(pool, head, first);
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

// One token at `position` of one head: q, k, v [head_dim], out [head_dim].
// `probabilities` is scratch of num_slots + 1 floats and a vector.
// Returns the position given up, or -1.
int32_t DecodeHead(const float* q, const float* k, const float* v,
                   int32_t position, float scale, const KvPool& pool,
                   KvHead* head, float* probabilities, float* out) {
  HWY_DYNAMIC_DISPATCH(AttendImpl)
  (q, k, v, scale, pool, *head, probabilities, out);
  float score = 0;
  if (head->slots.score_rule == ScoreRule::kSum) {
    AddScores(pool, *head, probabilities);
    score = probabilities[head->num_slots];
  }
  if (head->num_slots < head->slots.Capacity()) {
    WriteSlot(k, v, score, position, pool, *head, head->num_slots);
    ++head->num_slots;
    return -1;
  }
  const int32_t victim = FindVictim(pool, *head, position);
  const int32_t evicted = *PositionAt(pool, *head, victim);
  WriteSlot(k, v, score, position, pool, *head, victim);
  return evicted;
}

}  // namespace

int64_t DecodeScratchFloats(int64_t max_slots) {
  return max_slots + 1 + kVectorFloats;
}

void DecodeAttention(Matrix qkv, const DecodeBatch& batch, int layer,
                     float scale, const KvPool& pool, Matrix out,
                     int32_t* evicted, Team* team) {
  const int d = pool.head_dim;
  const int64_t num_heads = out.columns / d;
  team->ParallelFor(
      qkv.rows * num_heads, 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t row = i / num_heads, h = i % num_heads;
          float* to = out.Row(row) + h * d;
          if (batch.positions[row] < 0) {
            std::fill_n(to, d, 0.0f);
            evicted[i] = -1;
            continue;
          }
          const float* q = qkv.Row(row) + h * d;
          const float* k = q + num_heads * d;
          const float* v = k + num_heads * d;
          evicted[i] = DecodeHead(q, k, v, batch.positions[row], scale, pool,
                                  batch.heads[row] + layer * num_heads + h,
                                  team->OfThread(thread), to);
        }
      });
}

void StoredPositions(const KvHead* heads, int count, const KvPool& pool,
                     int stride, uint16_t* out) {
  for (int h = 0; h < count; ++h) {
    CopyPositions(pool, heads[h], out + int64_t{h} * stride);
  }
}

void CopyHeads(const KvHead* from, KvHead* to, int count, const KvPool& pool,
               Team* team) {
  team->ParallelFor(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t h = begin; h < end; ++h) {
      const int64_t page_bytes = pool.Layout(from[h]).PageBytes();
      for (int32_t slot = 0; slot < from[h].num_slots; slot += kPageSlots) {
        std::memcpy(pool.PageOf(to[h], slot), pool.PageOf(from[h], slot),
                    page_bytes);
      }
      to[h].num_slots = from[h].num_slots;
    }
  });
}

}  // namespace h2o::cpu
#endif  // HWY_ONCE
