// Products of some tens of rows through the AVX-512 BF16 units, with weights as
// they are stored.  oneDNN packs the weights at each call, which takes a third
// of the time at so few rows.  This kernel packs the rows instead of the
// weights.
#pragma once

#include <cstdint>

namespace h2o::cpu {

// Up to this many rows BFloat16Tiles is at least as fast as oneDNN.
inline constexpr int64_t kTileProductRows = 256;
// Of `k`: every product has a multiple of it.
inline constexpr int64_t kTileProductInputs = 32;
// What BFloat16Tiles needs to work in, aligned to 64 bytes.
inline constexpr int64_t kTileProductScratch = 64 * 1536 / 2;

// c[m, n] = a[m, k] * b[n, k]^T, row-major with leading dimensions.  The order
// of sums depends on k alone, so a row is bitwise the same among any others.
// REQUIRES: a CPU with AVX-512 BF16; k % kTileProductInputs == 0; `scratch` of
// kTileProductScratch elements.
void BFloat16Tiles(int64_t m, int64_t n, int64_t k, const uint16_t* a,
                   int64_t lda, const uint16_t* b, int64_t ldb, float* c,
                   int64_t ldc, uint32_t* scratch);

}  // namespace h2o::cpu
