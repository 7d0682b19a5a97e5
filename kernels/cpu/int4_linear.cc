// Multiplies by int4 codes, block by block.
#include "kernels/cpu/int4_linear.h"

#include <algorithm>
#include <array>
#include <cstring>

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/int4_linear.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/linear_tile-inl.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using U32 = hn::RebindToUnsigned<F32>;
using VU = hn::Vec<U32>;

// What the codes of one group stand for.
class Group {
 public:
  HWY_INLINE explicit Group(const GroupScale& g)
      : scale_(hn::Set(F32(), FromBFloat16(g.scale))),
        offset_(hn::Mul(hn::Set(F32(), -static_cast<float>(g.zero)), scale_)) {
    if constexpr (kLooksUp) {
      offset_ = hn::MulAdd(hn::Iota(F32(), 0), scale_, offset_);
    }
  }

  // Of the codes that are the lowest four bits of each word.
  HWY_INLINE VF Weights(VU words) const {
    const auto codes = hn::And(words, hn::Set(U32(), 15));
    if constexpr (kLooksUp) {
      return hn::TableLookupLanes(offset_, hn::IndicesFromVec(F32(), codes));
    } else {
      const hn::RebindToSigned<F32> di;
      return hn::MulAdd(hn::ConvertTo(F32(), hn::BitCast(di, codes)), scale_,
                        offset_);
    }
  }

 private:
  // A vector of 16 lanes holds what all 16 codes stand for.
  static constexpr bool kLooksUp = hn::MaxLanes(F32()) == 16;
  VF scale_;
  VF offset_;  // of code 0; or of each code
};

// kM rows of x times kOutputs weight rows.
template <int kM>
HWY_INLINE void RunTile(const Outputs& outputs, const StoredMatrix& w,
                        const float* HWY_RESTRICT x, int64_t x_stride,
                        int64_t inputs, int64_t n, int64_t count, float* y,
                        int64_t y_stride) {
  const F32 d;
  const U32 du;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const uint32_t* words[kOutputs];
  const GroupScale* scales[kOutputs];
  for (int i = 0; i < kOutputs; ++i) {
    const int64_t row = n + std::min<int64_t>(i, count - 1);
    words[i] = static_cast<const uint32_t*>(w.Row(row));
    scales[i] = w.GroupScales(row);
  }
  VF acc[kM][kOutputs];
  for (int m = 0; m < kM; ++m) {
    for (int i = 0; i < kOutputs; ++i) acc[m][i] = hn::Zero(d);
  }
  for (int64_t first = 0; first < inputs; first += w.group) {
    const int64_t last = std::min(first + w.group, inputs);
    const Group groups[kOutputs] = {
        Group(scales[0][first / w.group]), Group(scales[1][first / w.group]),
        Group(scales[2][first / w.group]), Group(scales[3][first / w.group])};
    const int64_t block = first / kCodeBlock * kWordsOfBlock;
    for (int64_t part = 0; part < kWordsOfBlock; part += lanes) {
      VU code[kOutputs];
      const int skipped =
          static_cast<int>(first % kCodeBlock / kWordsOfBlock) * 4;
      for (int i = 0; i < kOutputs; ++i) {
        code[i] =
            hn::ShiftRightSame(hn::LoadU(du, words[i] + block + part), skipped);
      }
      for (int64_t k = first; k < last; k += kWordsOfBlock) {
        VF xv[kM];
        for (int m = 0; m < kM; ++m) {
          xv[m] = hn::LoadU(d, x + m * x_stride + k + part);
        }
        for (int i = 0; i < kOutputs; ++i) {
          const VF wv = groups[i].Weights(code[i]);
          code[i] = hn::ShiftRight<4>(code[i]);
          for (int m = 0; m < kM; ++m) {
            acc[m][i] = hn::MulAdd(wv, xv[m], acc[m][i]);
          }
        }
      }
    }
  }
  for (int m = 0; m < kM; ++m) {
    Finish(outputs, SumEach(acc[m][0], acc[m][1], acc[m][2], acc[m][3]), n,
           count, y + m * y_stride);
  }
}

void Int4LinearImpl(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                    int64_t begin, int64_t end, Matrix y) {
  const Outputs outputs{nullptr, static_cast<const float*>(weights.bias),
                        epilogue};
  const StoredMatrix& w = weights.weight;
  const int64_t inputs = AlignedStride(w.columns);
  ForEachTile(x.rows, begin, end,
              [&]<int kM>(int64_t m, int64_t n, int64_t count) {
                RunTile<kM>(outputs, w, x.Row(m), x.stride, inputs, n, count,
                            y.Row(m), y.stride);
              });
}

void WidenInt4Impl(const uint32_t* words, const GroupScale* scales, int group,
                   int64_t inputs, float* out) {
  const U32 du;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(du));
  for (int64_t k = 0; k < inputs; k += kWordsOfBlock) {
    const Group codes(scales[k / group]);
    const uint32_t* block = words + k / kCodeBlock * kWordsOfBlock;
    const int skipped = static_cast<int>(k % kCodeBlock / kWordsOfBlock) * 4;
    for (int64_t part = 0; part < kWordsOfBlock; part += lanes) {
      const VU code = hn::ShiftRightSame(hn::LoadU(du, block + part), skipped);
      hn::StoreU(codes.Weights(code), F32(), out + k + part);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o::cpu {

HWY_EXPORT(Int4LinearImpl);
HWY_EXPORT(WidenInt4Impl);

void ArrangeInt4(const StoredMatrix& weight, void* codes) {
  auto* bytes = static_cast<std::byte*>(codes);
  const int64_t blocks = weight.rows * weight.stride / kCodeBlock;
  for (int64_t b = 0; b < blocks; ++b, bytes += kCodeBlock / 2) {
    std::array<uint32_t, kWordsOfBlock> words = {};
    for (int64_t i = 0; i < kCodeBlock; ++i) {
      const auto byte = static_cast<uint32_t>(bytes[i / 2]);
      const uint32_t code = i % 2 == 0 ? byte & 15 : byte >> 4;
      words[i % kWordsOfBlock] |= code << (i / kWordsOfBlock * 4);
    }
    std::memcpy(bytes, words.data(), sizeof(words));
  }
}

void Int4Linear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                int64_t begin, int64_t end, Matrix y) {
  HWY_DYNAMIC_DISPATCH(Int4LinearImpl)
  (x, weights, epilogue, begin, end, y);
}

void WidenInt4Rows(const StoredMatrix& stored, int64_t begin, int64_t end,
                   float* out) {
  const int64_t inputs = AlignedStride(stored.columns);
  for (int64_t r = begin; r < end; ++r, out += inputs) {
    HWY_DYNAMIC_DISPATCH(WidenInt4Impl)
    (static_cast<const uint32_t*>(stored.Row(r)), stored.GroupScales(r),
     stored.group, inputs, out);
  }
}

}  // namespace h2o::cpu
#endif  // HWY_ONCE
