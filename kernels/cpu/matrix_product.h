// Matrix products of many rows, by oneDNN (bf16 of few: bf16_tiles.h), one
// slice of outputs a thread.
//
// oneDNN's own threads stay unused: each thread of our pool asks for its own
// slice, so that one pool serves everything and nothing runs OpenMP teams.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/backend.h"

namespace h2o::cpu {

// c[m, n] = a[m, k] * op(b) + beta * c, row-major with leading dimensions;
// op(b) is b[n, k] transposed or b[k, n].
void Sgemm(bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
           int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
           float beta = 0);
// c[m, n] += a[k, m]^T * b[k, n].
void AddOuterProducts(int64_t m, int64_t n, int64_t k, const float* a,
                      int64_t lda, const float* b, int64_t ldb, float* c,
                      int64_t ldc);

// bf16 times bf16 into float32, through the CPU's bf16 units.
// One object a thread.
class BFloat16Product {
 public:
  BFloat16Product();
  ~BFloat16Product();

  // Whether this CPU has such units (AVX-512 BF16 or AMX).
  static bool Supported();

  // c[m, n] = a[m, k] * b[n, k]^T.
  void Run(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda,
           const uint16_t* b, int64_t ldb, float* c, int64_t ldc);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace h2o::cpu
