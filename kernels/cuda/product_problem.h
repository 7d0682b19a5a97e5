// One matrix product in cuBLASLt's words.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace h2o::cuda {

// What products run with, one after the other.
struct ProductRuntime {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  cudaEvent_t begin = nullptr, end = nullptr;  // of measurements
};

// y = x W^T, plus bias, and ReLU of that, as asked.  x and W are of one 16-bit
// type, or fp8 codes in order, with a scale for each row of both; sums are
// float32.  cuBLASLt thinks in columns: our row-major y [rows, outputs] is its
// [outputs, rows], so W is its A, transposed, and x its B.
class ProductProblem {
 public:
  ProductProblem(const StoredMatrix& x, const StoredMatrix& weight,
                 const void* bias, bool relu, Matrix y);
  ~ProductProblem();
  ProductProblem(const ProductProblem&) = delete;

  cublasStatus_t Run(const ProductRuntime& runtime,
                     const cublasLtMatmulAlgo_t& algo,
                     cudaStream_t stream) const;

  int64_t rows() const { return rows_; }  // of x
  int64_t weight_bytes() const { return weight_bytes_; }

  // For questions to cuBLASLt.  C is D.
  cublasLtMatmulDesc_t operation() const { return operation_; }
  cublasLtMatrixLayout_t a() const { return a_layout_; }
  cublasLtMatrixLayout_t b() const { return b_layout_; }
  cublasLtMatrixLayout_t d() const { return d_layout_; }

 private:
  const void* const a_;
  const void* const b_;
  void* const d_;
  const int64_t rows_;
  const int64_t weight_bytes_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t a_layout_ = nullptr, b_layout_ = nullptr,
                         d_layout_ = nullptr;
};

}  // namespace h2o::cuda
