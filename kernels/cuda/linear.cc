#include "kernels/cuda/linear.h"

#include <bit>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_status.h"

namespace h2o::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{64} << 20;

// Candidates that are timed, and how often each.
constexpr int kCandidates = 48;
constexpr int kCandidatesOfMany = 8;  // of more than kExactRows rows
constexpr int kTimedRuns = 3;

cudaDataType_t CudaType(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return CUDA_R_32F;
    case DType::kBFloat16:
      return CUDA_R_16BF;
    case DType::kFloat16:
      return CUDA_R_16F;
  }
  return CUDA_R_32F;
}

bool Captures(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(stream, &status);
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

// One product in cuBLASLt's words.  It thinks in columns: our row-major y[rows,
// outputs] is its [outputs, rows], so W is its A, transposed, and x its B.
struct LinearProducts::Problem {
  Problem(Matrix x, const StoredMatrix& weight, const void* bias, bool relu,
          Matrix y)
      : a(weight.data), b(x.data), d(y.data), rows(x.rows) {
    const auto ok = [](cublasStatus_t status) {
      H2O_CHECK(status == CUBLAS_STATUS_SUCCESS)
          << cublasLtGetStatusString(status);
    };
    ok(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute,
                         const auto& value) {
      ok(cublasLtMatmulDescSetAttribute(operation, attribute, &value,
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
    // The padding of both is zero, so whole strides are multiplied.
    const int64_t inputs = weight.stride;
    H2O_CHECK(x.stride >= inputs) << x.stride << " < " << inputs;
    ok(cublasLtMatrixLayoutCreate(&a_layout, CudaType(weight.dtype), inputs,
                                  weight.rows, weight.stride));
    ok(cublasLtMatrixLayoutCreate(&b_layout, CudaType(x.dtype), inputs, x.rows,
                                  x.stride));
    ok(cublasLtMatrixLayoutCreate(&d_layout, CudaType(y.dtype), weight.rows,
                                  y.rows, y.stride));
  }
  ~Problem() {
    cublasLtMatrixLayoutDestroy(d_layout);
    cublasLtMatrixLayoutDestroy(b_layout);
    cublasLtMatrixLayoutDestroy(a_layout);
    cublasLtMatmulDescDestroy(operation);
  }

  cublasStatus_t Run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algo,
                     void* workspace, cudaStream_t stream) const {
    const float one = 1, zero = 0;
    return cublasLtMatmul(handle, operation, &one, a, a_layout, b, b_layout,
                          &zero, d, d_layout, d, d_layout, &algo, workspace,
                          kWorkspaceBytes, stream);
  }

  const void* a;
  const void* b;
  void* d;
  int64_t rows;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a_layout = nullptr, b_layout = nullptr,
                         d_layout = nullptr;
};

absl::StatusOr<std::unique_ptr<LinearProducts>> LinearProducts::Create(
    const std::string& directory) {
  std::unique_ptr<LinearProducts> products(new LinearProducts());
  int device = 0;
  cudaDeviceProp properties;
  H2O_RETURN_IF_ERROR(ToStatus(cudaGetDevice(&device), "device"));
  H2O_RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(&properties, device), "device"));
  std::error_code failed;
  if (!directory.empty() &&
      (std::filesystem::create_directories(directory, failed), !failed)) {
    products->path_ = absl::StrCat(directory, "/products ", properties.name,
                                   " cublaslt ", cublasLtGetVersion(), ".txt");
    products->chosen_ = ReadProductChoices(products->path_);
  }
  H2O_RETURN_IF_ERROR(
      ToStatus(cublasLtCreate(&products->handle_), "cublasLtCreate"));
  H2O_RETURN_IF_ERROR(ToStatus(
      cudaMalloc(&products->workspace_, kWorkspaceBytes), "workspace"));
  H2O_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&products->begin_), "event"));
  H2O_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&products->end_), "event"));
  return products;
}

LinearProducts::~LinearProducts() {
  if (end_ != nullptr) cudaEventDestroy(end_);
  if (begin_ != nullptr) cudaEventDestroy(begin_);
  cudaFree(workspace_);
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

int64_t LinearProducts::workspace_bytes() const { return kWorkspaceBytes; }

absl::Status LinearProducts::Run(Matrix x, const StoredMatrix& weight,
                                 const void* bias, bool relu, Matrix y,
                                 cudaStream_t stream) {
  const Problem problem(x, weight, bias, relu, y);
  const int64_t rows =
      x.rows <= kExactRows ? x.rows : CeilDiv(x.rows, kRowStep) * kRowStep;
  const ProductShape shape = {.outputs = weight.rows,
                              .inputs = weight.stride,
                              .rows = rows,
                              .dtype = weight.dtype,
                              .bias = bias != nullptr,
                              .relu = relu,
                              .float32_outputs = y.dtype == DType::kFloat32};
  // What other rows chose may not do for these, and a file may say anything:
  // then we choose anew.
  const auto it = chosen_.find(shape);
  if (it != chosen_.end() &&
      problem.Run(handle_, std::bit_cast<cublasLtMatmulAlgo_t>(it->second),
                  workspace_, stream) == CUBLAS_STATUS_SUCCESS) {
    return absl::OkStatus();
  }
  H2O_ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t algo,
                       Choose(problem, stream));
  H2O_RETURN_IF_ERROR(ToStatus(problem.Run(handle_, algo, workspace_, stream),
                               "matrix product"));
  if (Captures(stream)) return absl::OkStatus();  // a guess is not kept
  chosen_.insert_or_assign(shape, std::bit_cast<ProductAlgo>(algo));
  if (!path_.empty()) WriteProductChoices(chosen_, path_);
  return absl::OkStatus();
}

absl::StatusOr<cublasLtMatmulAlgo_t> LinearProducts::Choose(
    const Problem& problem, cudaStream_t stream) {
  cublasLtMatmulPreference_t preference = nullptr;
  H2O_RETURN_IF_ERROR(
      ToStatus(cublasLtMatmulPreferenceCreate(&preference), "preference"));
  const size_t workspace = kWorkspaceBytes;
  cublasLtMatmulPreferenceSetAttribute(preference,
                                       CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                       &workspace, sizeof(workspace));
  // Parts of a split sum stay float32 until they are added: in 16 bits each
  // would be rounded.
  const uint32_t parts = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  cublasLtMatmulPreferenceSetAttribute(
      preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &parts,
      sizeof(parts));
  std::vector<cublasLtMatmulHeuristicResult_t> found(
      problem.rows <= kExactRows ? kCandidates : kCandidatesOfMany);
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, problem.operation, problem.a_layout, problem.b_layout,
      problem.d_layout, problem.d_layout, preference,
      static_cast<int>(found.size()), found.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  H2O_RETURN_IF_ERROR(ToStatus(status, "heuristic"));
  if (count == 0) return absl::InternalError("cuBLAS knows no such product");

  if (count == 1 || Captures(stream)) return found[0].algo;
  float best_ms = std::numeric_limits<float>::infinity();
  int best = 0;
  for (int i = 0; i < count; ++i) {
    if (problem.Run(handle_, found[i].algo, workspace_, stream) !=
        CUBLAS_STATUS_SUCCESS) {
      continue;
    }
    cudaEventRecord(begin_, stream);
    for (int run = 0; run < kTimedRuns; ++run) {
      problem.Run(handle_, found[i].algo, workspace_, stream);
    }
    cudaEventRecord(end_, stream);
    H2O_RETURN_IF_ERROR(ToStatus(cudaEventSynchronize(end_), "tuning"));
    float ms = 0;
    cudaEventElapsedTime(&ms, begin_, end_);
    if (ms < best_ms) {
      best_ms = ms;
      best = i;
    }
  }
  return found[best].algo;
}

}  // namespace h2o::cuda
