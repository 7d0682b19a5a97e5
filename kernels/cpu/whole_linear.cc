// Multiplies codes of weights by rows of whole numbers.
#include "kernels/cpu/whole_linear.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "hwy/cache_control.h"
#include "kernels/cpu/int4_linear.h"

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/whole_linear.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/linear_tile-inl.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using I32 = hn::RebindToSigned<F32>;
using I16 = hn::Repartition<int16_t, F32>;
using U16 = hn::RebindToUnsigned<I16>;
using VI32 = hn::Vec<I32>;
using VI16 = hn::Vec<I16>;

// A sum of products of pairs.
struct PairSum {
  VI32 first, second;

  HWY_INLINE PairSum() : PairSum(0) {}
  HWY_INLINE explicit PairSum(int32_t begin)
      : first(hn::IfThenElseZero(hn::FirstN(I32(), 1), hn::Set(I32(), begin))),
        second(hn::Zero(I32())) {}

  HWY_INLINE void Add(VI16 a, VI16 b) {
    first = hn::ReorderWidenMulAccumulate(I32(), a, b, first, second);
  }
  HWY_INLINE VF Floats() const {
    return hn::ConvertTo(F32(), hn::RearrangeToOddPlusEven(first, second));
  }
};

// The four pairs of codes of a vector of words, two for each lane.
HWY_INLINE VI16 Codes(hn::Vec<U16> words, uint32_t mask) {
  const hn::RebindToUnsigned<F32> du;
  return hn::BitCast(I16(),
                     hn::And(words, hn::BitCast(U16(), hn::Set(du, mask))));
}
HWY_INLINE void AddCodes(hn::Vec<U16> words, const VI16 (&x)[4], uint32_t mask,
                         PairSum* sum) {
  sum->Add(Codes(words, mask), x[0]);
  sum->Add(Codes(hn::ShiftRight<4>(words), mask), x[1]);
  sum->Add(Codes(hn::ShiftRight<8>(words), mask), x[2]);
  sum->Add(Codes(hn::ShiftRight<12>(words), mask), x[3]);
}

// Rows of codes are short, and the processor's own prefetching ends with a
// page: this fetches the same place of the next tile, or of one some KB behind.
HWY_INLINE void FetchAhead(const void* at, int64_t bytes) {
  hwy::Prefetch(static_cast<const std::byte*>(at) + bytes);
}
HWY_INLINE int64_t AheadBytes(const StoredMatrix& w) {
  constexpr int64_t kLeast = 8192;
  const int64_t tile = kOutputs * w.row_bytes();
  return CeilDiv(kLeast, tile) * tile;
}

// Sums of kOutputs outputs, before scales of rows.
HWY_INLINE hn::Vec<F32x4> Int4Sums(const WholeRow& x, const StoredMatrix& w,
                                   int64_t n, int64_t count) {
  const I16 d16;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(F32()));
  const uint32_t* words[kOutputs];
  const GroupScale* scales[kOutputs];
  VF sums[kOutputs];
  for (int i = 0; i < kOutputs; ++i) {
    const int64_t row = n + std::min<int64_t>(i, count - 1);
    words[i] = static_cast<const uint32_t*>(w.Row(row));
    scales[i] = w.GroupScales(row);
    sums[i] = hn::Zero(F32());
  }
  const bool halves = w.group == kCodeBlock / 2;
  const int64_t ahead = AheadBytes(w);
  const int64_t rows_ahead = ahead / w.row_bytes();
  for (int i = 0; i < kOutputs; ++i) {
    FetchAhead(scales[i],
               rows_ahead * w.groups() * int64_t{sizeof(GroupScale)});
  }
  // What zero points take from a group's sum.
  const auto begin = [&](const GroupScale& g, int64_t group) {
    return -static_cast<int32_t>(g.zero) * x.sums[group];
  };
  for (int64_t b = 0; b < w.stride / kCodeBlock; ++b) {
    const int64_t group = halves ? 2 * b : b;
    for (int64_t part = 0; part < kWordsOfBlock; part += lanes) {
      VI16 xv[4];
      for (int s = 0; s < 4; ++s) {
        xv[s] = hn::LoadU(
            d16, x.values + b * kCodeBlock + 2 * (s * kWordsOfBlock + part));
      }
      for (int i = 0; i < kOutputs; ++i) {
        const uint32_t* const at = words[i] + b * kWordsOfBlock + part;
        FetchAhead(at, ahead);
        const auto v =
            hn::BitCast(U16(), hn::LoadU(hn::RebindToUnsigned<F32>(), at));
        const GroupScale* const g = scales[i] + group;
        PairSum first(part == 0 ? begin(g[0], group) : 0);
        if (halves) {
          PairSum second(part == 0 ? begin(g[1], group + 1) : 0);
          AddCodes(v, xv, 0x0000000f, &first);
          AddCodes(v, xv, 0x000f0000, &second);
          sums[i] =
              hn::MulAdd(second.Floats(),
                         hn::Set(F32(), FromBFloat16(g[1].scale)), sums[i]);
        } else {
          AddCodes(v, xv, 0x000f000f, &first);
        }
        sums[i] = hn::MulAdd(first.Floats(),
                             hn::Set(F32(), FromBFloat16(g[0].scale)), sums[i]);
      }
    }
  }
  return SumEach(sums[0], sums[1], sums[2], sums[3]);
}

// 128 additions of 2 x 127 x 32,767 stay below 2^31.
constexpr int64_t kMostAdditions = 128;

HWY_INLINE hn::Vec<F32x4> Int8Sums(const WholeRow& x, const StoredMatrix& w,
                                   int64_t n, int64_t count) {
  const I16 d16;
  const hn::Rebind<int8_t, I16> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d16));
  const int8_t* codes[kOutputs];
  VF sums[kOutputs];
  for (int i = 0; i < kOutputs; ++i) {
    codes[i] =
        static_cast<const int8_t*>(w.Row(n + std::min<int64_t>(i, count - 1)));
    sums[i] = hn::Zero(F32());
  }
  const int64_t ahead = AheadBytes(w);
  for (int64_t first = 0; first < w.stride; first += kMostAdditions * lanes) {
    const int64_t last = std::min(first + kMostAdditions * lanes, w.stride);
    PairSum sum[kOutputs];
    for (int64_t k = first; k < last; k += lanes) {
      const VI16 xv = hn::LoadU(d16, x.values + k);
      for (int i = 0; i < kOutputs; ++i) {
        FetchAhead(codes[i] + k, ahead);
        sum[i].Add(hn::PromoteTo(d16, hn::LoadU(d8, codes[i] + k)), xv);
      }
    }
    for (int i = 0; i < kOutputs; ++i) {
      sums[i] = hn::Add(sums[i], sum[i].Floats());
    }
  }
  return SumEach(sums[0], sums[1], sums[2], sums[3]);
}

void WholeLinearImpl(const WholeRow& x, const LinearWeights& weights,
                     Epilogue epilogue, int64_t begin, int64_t end, float* y) {
  const StoredMatrix& w = weights.weight;
  const bool int4 = w.format == WeightFormat::kInt4;
  const Outputs outputs{int4 ? nullptr : w.RowScales(),
                        static_cast<const float*>(weights.bias), epilogue};
  for (int64_t n = begin; n < end; n += kOutputs) {
    const int64_t count = std::min<int64_t>(kOutputs, end - n);
    const auto sums =
        int4 ? Int4Sums(x, w, n, count) : Int8Sums(x, w, n, count);
    Finish(outputs, hn::Mul(sums, hn::Set(F32x4(), x.scale)), n, count, y);
  }
}

// The greatest magnitude; NaN if a number is not finite.
float MostOf(const float* x, int64_t n) {
  const F32 d;
  VF most = hn::Zero(d), poison = hn::Zero(d);
  for (int64_t i = 0; i < n; i += hn::Lanes(d)) {
    const VF v = hn::LoadU(d, x + i);
    most = hn::Max(most, hn::Abs(v));
    poison = hn::MulAdd(v, hn::Zero(d), poison);
  }
  return hn::GetLane(hn::MaxOfLanes(d, most)) +
         hn::GetLane(hn::SumOfLanes(d, poison));
}

void RoundRowImpl(const float* x, int64_t n, float* most, int16_t* out) {
  const F32 d;
  const hn::Rebind<int16_t, F32> dh;
  *most = MostOf(x, n);
  if (!(*most > 0)) {
    std::fill_n(out, n, int16_t{0});
    return;
  }
  const VF to_whole = hn::Set(d, kMostWhole / *most);
  for (int64_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto whole = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), to_whole));
    hn::StoreU(hn::DemoteTo(dh, whole), dh, out + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o::cpu {
namespace {

// Value j + 16 s of a block goes beside the one 64 behind it: their codes are
// the halves of a word.
void InterleaveBlock(int16_t* block) {
  std::array<int16_t, kCodeBlock> in_order;
  std::copy_n(block, kCodeBlock, in_order.data());
  for (int64_t i = 0; i < kCodeBlock / 2; ++i) {
    block[2 * i] = in_order[i];
    block[2 * i + 1] = in_order[i + kCodeBlock / 2];
  }
}

}  // namespace

HWY_EXPORT(WholeLinearImpl);
HWY_EXPORT(RoundRowImpl);

int64_t WholeRowBytes(int64_t inputs) {
  const int64_t stride = CeilDiv(inputs, kCodeBlock) * kCodeBlock;
  return stride * int64_t{sizeof(int16_t)} +
         stride / 64 * int64_t{sizeof(int32_t)};
}

WholeRow RoundToWhole(const float* x, int64_t x_stride,
                      const StoredMatrix& weight, void* memory) {
  WholeRow row;
  row.values = static_cast<int16_t*>(memory);
  row.sums = reinterpret_cast<int32_t*>(row.values + weight.stride);
  const int64_t given = std::min(x_stride, weight.stride);
  float most = 0;
  HWY_DYNAMIC_DISPATCH(RoundRowImpl)(x, given, &most, row.values);
  row.scale = most / kMostWhole;
  std::fill(row.values + given, row.values + weight.stride, int16_t{0});
  if (weight.format != WeightFormat::kInt4) return row;
  for (int64_t g = 0; g < weight.groups(); ++g) {
    const int16_t* const group = row.values + g * weight.group;
    int32_t sum = 0;
    for (int i = 0; i < weight.group; ++i) sum += group[i];
    row.sums[g] = sum;
  }
  for (int64_t k = 0; k < weight.stride; k += kCodeBlock) {
    InterleaveBlock(row.values + k);
  }
  return row;
}

void WholeLinear(const WholeRow& x, const LinearWeights& weights,
                 Epilogue epilogue, int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(WholeLinearImpl)(x, weights, epilogue, begin, end, y);
}

}  // namespace h2o::cpu
#endif  // HWY_ONCE
