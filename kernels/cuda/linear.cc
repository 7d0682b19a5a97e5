#include "kernels/cuda/linear.h"

#include <bit>
#include <filesystem>
#include <string>

#include "base/status_macros.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/product_search.h"

namespace h2o::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{64} << 20;

bool Captures(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(stream, &status);
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinearProducts>> LinearProducts::Create(
    const std::string& directory, bool searches) {
  std::unique_ptr<LinearProducts> products(new LinearProducts(searches));
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
  ProductRuntime& runtime = products->runtime_;
  H2O_RETURN_IF_ERROR(
      ToStatus(cublasLtCreate(&runtime.handle), "cublasLtCreate"));
  H2O_RETURN_IF_ERROR(
      ToStatus(cudaMalloc(&runtime.workspace, kWorkspaceBytes), "workspace"));
  runtime.workspace_bytes = kWorkspaceBytes;
  H2O_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&runtime.begin), "event"));
  H2O_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&runtime.end), "event"));
  return products;
}

LinearProducts::~LinearProducts() {
  if (runtime_.end != nullptr) cudaEventDestroy(runtime_.end);
  if (runtime_.begin != nullptr) cudaEventDestroy(runtime_.begin);
  cudaFree(runtime_.workspace);
  if (runtime_.handle != nullptr) cublasLtDestroy(runtime_.handle);
}

absl::Status LinearProducts::Run(Matrix x, const StoredMatrix& weight,
                                 const void* bias, bool relu, Matrix y,
                                 cudaStream_t stream) {
  const ProductProblem problem(x, weight, bias, relu, y);
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
  if (it != chosen_.end() && (it->second.searched || !searches_) &&
      problem.Run(runtime_,
                  std::bit_cast<cublasLtMatmulAlgo_t>(it->second.algo),
                  stream) == CUBLAS_STATUS_SUCCESS) {
    return absl::OkStatus();
  }
  const SearchEffort effort = Captures(stream) ? SearchEffort::kGuess
                              : searches_      ? SearchEffort::kSearch
                                               : SearchEffort::kQuick;
  H2O_ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t algo,
                       ChooseProductAlgo(problem, effort, runtime_, stream));
  H2O_RETURN_IF_ERROR(
      ToStatus(problem.Run(runtime_, algo, stream), "matrix product"));
  if (effort == SearchEffort::kGuess) return absl::OkStatus();
  chosen_.insert_or_assign(
      shape, ProductChoice{searches_, std::bit_cast<ProductAlgo>(algo)});
  if (!path_.empty()) KeepProductChoices(chosen_, path_);
  return absl::OkStatus();
}

}  // namespace h2o::cuda
