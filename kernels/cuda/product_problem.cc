// Describes a matrix product to cuBLASLt.
#include "kernels/cuda/product_problem.h"

#include "base/check.h"

namespace h2o::cuda {
namespace {

cudaDataType_t CudaType(WeightFormat format) {
  switch (format) {
    case WeightFormat::kBFloat16:
      return CUDA_R_16BF;
    case WeightFormat::kFloat16:
      return CUDA_R_16F;
    case WeightFormat::kFp8:
      return CUDA_R_8F_E4M3;
    default:
      H2O_CHECK(format == WeightFormat::kFloat32);
      return CUDA_R_32F;
  }
}

void Check(cublasStatus_t status) {
  H2O_CHECK(status == CUBLAS_STATUS_SUCCESS) << cublasLtGetStatusString(status);
}

}  // namespace

ProductProblem::ProductProblem(const StoredMatrix& x,
                               const StoredMatrix& weight, const void* bias,
                               bool relu, Matrix y)
    : a_(weight.data),
      b_(x.data),
      d_(y.data),
      rows_(x.rows),
      weight_bytes_(weight.rows * weight.row_bytes()) {
  Check(cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute,
                       const auto& value) {
    Check(cublasLtMatmulDescSetAttribute(operation_, attribute, &value,
                                         sizeof(value)));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  if (bias != nullptr) {
    epilogue = relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  } else if (relu) {
    epilogue = CUBLASLT_EPILOGUE_RELU;
  }
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
  H2O_CHECK(x.format == weight.format);
  if (weight.format == WeightFormat::kFp8) {
    const cublasLtMatmulMatrixScale_t of_rows =
        CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, of_rows);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, of_rows);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, weight.scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x.scales);
  }
  // The padding of both is zero, so whole strides are multiplied.
  const int64_t inputs = weight.stride;
  H2O_CHECK(x.stride >= inputs) << x.stride << " < " << inputs;
  Check(cublasLtMatrixLayoutCreate(&a_layout_, CudaType(weight.format), inputs,
                                   weight.rows, weight.stride));
  Check(cublasLtMatrixLayoutCreate(&b_layout_, CudaType(x.format), inputs,
                                   x.rows, x.stride));
  Check(cublasLtMatrixLayoutCreate(&d_layout_, CudaType(FormatOf(y.dtype)),
                                   weight.rows, y.rows, y.stride));
}

ProductProblem::~ProductProblem() {
  cublasLtMatrixLayoutDestroy(d_layout_);
  cublasLtMatrixLayoutDestroy(b_layout_);
  cublasLtMatrixLayoutDestroy(a_layout_);
  cublasLtMatmulDescDestroy(operation_);
}

cublasStatus_t ProductProblem::Run(const ProductRuntime& runtime,
                                   const cublasLtMatmulAlgo_t& algo,
                                   cudaStream_t stream) const {
  const float one = 1, zero = 0;
  return cublasLtMatmul(runtime.handle, operation_, &one, a_, a_layout_, b_,
                        b_layout_, &zero, d_, d_layout_, d_, d_layout_, &algo,
                        runtime.workspace, runtime.workspace_bytes, stream);
}

}  // namespace h2o::cuda
