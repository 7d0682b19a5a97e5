// Random weights, the same on every machine and for every number of ranks: the
// CPU twin of cuda/dummy.cu.
#include "kernels/cpu/dummy.h"

#include "base/dummy_codes.h"

namespace h2o::cpu {
namespace {

constexpr int64_t kRowsPerItem = 64;
constexpr uint64_t kLanes = 4;  // of one call of CounterRandom

}  // namespace

void FillDummy(const DummyTensor& t, DType dtype, void* out, int64_t stride,
               Team* team) {
  team->ParallelFor(t.rows, kRowsPerItem, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const uint64_t first =
          (t.row_begin + r) * t.full_columns + t.column_begin;
      r123::Philox4x32::ctr_type random = {};
      for (int64_t c = 0; c < t.columns; ++c) {
        const uint64_t i = first + c;
        if (c == 0 || i % kLanes == 0) {
          random = CounterRandom(t.seed, i / kLanes, t.stream);
        }
        const auto lane = static_cast<int32_t>(random[i % kLanes]);
        const float u = static_cast<float>(lane) * 0x1.0p-31f;
        StoreElement(out, dtype, r * stride + c, u * t.scale);
      }
    }
  });
}

void FillDummyCodes(const DummyTensor& t, WeightFormat format, void* out,
                    int64_t row_bytes, Team* team) {
  const int bits = BitsOf(format);
  const uint64_t of_word = 32 / bits;
  team->ParallelFor(t.rows, kRowsPerItem, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      auto* const row = static_cast<uint8_t*>(out) + r * row_bytes;
      const uint64_t first =
          (t.row_begin + r) * t.full_columns + t.column_begin;
      uint32_t word = 0;
      for (int64_t c = 0; c < t.columns; ++c) {
        const uint64_t i = first + c, at = i % of_word;
        if (c == 0 || at == 0) {
          word = DummyWord(format, t.seed, t.stream, i / of_word);
        }
        const uint32_t code = word >> (at * bits) & ((1u << bits) - 1);
        if (bits == 8) {
          row[c] = static_cast<uint8_t>(code);
        } else {
          const uint8_t other = c % 2 == 0 ? 0 : row[c / 2] & 15;
          row[c / 2] = static_cast<uint8_t>(other | code << (c % 2 * 4));
        }
      }
    }
  });
}

}  // namespace h2o::cpu
