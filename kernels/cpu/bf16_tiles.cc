// The AVX-512 BF16 kernel for products of some tens of rows.
#include "kernels/cpu/bf16_tiles.h"

#include <algorithm>

#include "base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "hwy/base.h"

#if !defined(__clang__)
// GCC 12 complains of its own header (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

// Uses these instruction sets even if the build targets an older CPU.  The
// caller must check that the CPU has them.
HWY_PUSH_ATTRIBUTES("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")
namespace h2o::cpu {
namespace {

// A block is 64 rows of `a` by 1,536 of its columns, packed in the order in
// which the loop reads them: pairs of columns, each for 16 rows a vector.  It
// stays in the L2 cache for all outputs.  An output is a row of `b`: each pair
// of its elements is broadcast and multiplied with all rows of the block.  So a
// lane sums for one row, and nothing is added across lanes.  The sums of 16
// outputs by 16 rows are transposed once, at the end.
constexpr int64_t kLanes = 16;
constexpr int kMaxVectors = 4;  // of rows, in a block
constexpr int64_t kBlockRows = kMaxVectors * kLanes;
constexpr int64_t kBlockPairs = kTileProductScratch / kBlockRows;
// Outputs of one register tile.  The units need six sums in flight.
template <int kVectors>
constexpr int kOutputsOf = kVectors == 1 ? 8 : 4;

struct Operands {
  const uint16_t* a;
  int64_t lda;
  const uint16_t* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
};

inline void Transpose(__m512i v[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// packed[pair][vector][lane] = the pair of row 16 * vector + lane; rows past
// `rows` are zero.
template <int kVectors>
void Pack(const uint16_t* a, int64_t lda, int64_t rows, int64_t pairs,
          uint32_t* packed) {
  for (int v = 0; v < kVectors; ++v) {
    for (int64_t p = 0; p < pairs; p += kLanes) {
      __m512i block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t row = v * kLanes + i;
        block[i] = row < rows ? _mm512_loadu_si512(a + row * lda + 2 * p)
                              : _mm512_setzero_si512();
      }
      Transpose(block);
      for (int64_t i = 0; i < kLanes; ++i) {
        _mm512_store_si512(packed + ((p + i) * kVectors + v) * kLanes,
                           block[i]);
      }
    }
  }
}

// sums[output][row] of a tile's outputs from `b` on, of which `count` exist.
template <int kVectors>
inline void RunTile(const uint32_t* packed, int64_t pairs, const uint16_t* b,
                    int64_t ldb, int64_t count, float* sums) {
  constexpr int kOutputs = kOutputsOf<kVectors>;
  const int32_t* w[kOutputs];
  for (int64_t i = 0; i < kOutputs; ++i) {
    w[i] = reinterpret_cast<const int32_t*>(b + std::min(i, count - 1) * ldb);
  }
  __m512 acc[kOutputs][kVectors];
  for (auto& row : acc) {
    for (__m512& sum : row) sum = _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < pairs; ++p) {
    if (p % kLanes == 0) {
      // Rows are too short for the hardware to look ahead: ask for the next
      // tile's.
      for (int64_t i = 0; i < kOutputs; ++i) {
        __builtin_prefetch(b + (kOutputs + i) * ldb + 2 * p);
      }
    }
    __m512bh x[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      x[v] = (__m512bh)_mm512_load_si512(packed + (p * kVectors + v) * kLanes);
    }
    for (int i = 0; i < kOutputs; ++i) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(w[i][p]);
      for (int v = 0; v < kVectors; ++v) {
        acc[i][v] = _mm512_dpbf16_ps(acc[i][v], x[v], pair);
      }
    }
  }
  for (int i = 0; i < kOutputs; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      _mm512_store_ps(sums + i * kBlockRows + v * kLanes, acc[i][v]);
    }
  }
}

// Writes up to 16 outputs of up to 16 rows.
inline void WriteSums(const float* sums, int64_t rows, int64_t count,
                      bool accumulate, float* c, int64_t ldc) {
  __m512i block[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    block[i] = _mm512_load_si512(sums + i * kBlockRows);
  }
  Transpose(block);
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  for (int64_t r = 0; r < rows; ++r) {
    float* out = c + r * ldc;
    __m512 y = _mm512_castsi512_ps(block[r]);
    if (accumulate) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, out));
    _mm512_mask_storeu_ps(out, mask, y);
  }
}

// One block: `rows` of at most kVectors * 16.
template <int kVectors>
void RunBlock(const Operands& o, int64_t rows, int64_t n, int64_t pairs,
              bool accumulate, uint32_t* packed) {
  Pack<kVectors>(o.a, o.lda, rows, pairs, packed);
  alignas(64) float sums[kLanes * kBlockRows];
  for (int64_t first = 0; first < n; first += kLanes) {
    const int64_t count = std::min(kLanes, n - first);
    for (int64_t i = 0; i < count; i += kOutputsOf<kVectors>) {
      RunTile<kVectors>(packed, pairs, o.b + (first + i) * o.ldb, o.ldb,
                        count - i, sums + i * kBlockRows);
    }
    for (int64_t v = 0; v < kVectors; ++v) {
      WriteSums(sums + v * kLanes, std::min(kLanes, rows - v * kLanes), count,
                accumulate, o.c + v * kLanes * o.ldc + first, o.ldc);
    }
  }
}

}  // namespace

void BFloat16Tiles(int64_t m, int64_t n, int64_t k, const uint16_t* a,
                   int64_t lda, const uint16_t* b, int64_t ldb, float* c,
                   int64_t ldc, uint32_t* scratch) {
  H2O_CHECK(k % kTileProductInputs == 0) << k;
  for (int64_t row = 0; row < m; row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, m - row);
    for (int64_t pair = 0; pair < k / 2; pair += kBlockPairs) {
      const Operands o{
          a + row * lda + 2 * pair, lda, b + 2 * pair, ldb, c + row * ldc, ldc};
      const int64_t pairs = std::min(kBlockPairs, k / 2 - pair);
      const bool add = pair > 0;
      switch ((rows + kLanes - 1) / kLanes) {
        case 1:
          RunBlock<1>(o, rows, n, pairs, add, scratch);
          break;
        case 2:
          RunBlock<2>(o, rows, n, pairs, add, scratch);
          break;
        case 3:
          RunBlock<3>(o, rows, n, pairs, add, scratch);
          break;
        default:
          RunBlock<4>(o, rows, n, pairs, add, scratch);
          break;
      }
    }
  }
}

}  // namespace h2o::cpu
HWY_POP_ATTRIBUTES

#else
namespace h2o::cpu {

void BFloat16Tiles(int64_t, int64_t, int64_t, const uint16_t*, int64_t,
                   const uint16_t*, int64_t, float*, int64_t, uint32_t*) {
  H2O_CHECK(false) << "no AVX-512 on this machine";
}

}  // namespace h2o::cpu
#endif
