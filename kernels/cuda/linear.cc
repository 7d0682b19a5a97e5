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
  ProductShape shape = {.outputs = weight.rows,
                        .inputs = weight.stride,
                        .rows = x.rows,
                        .dtype = weight.dtype,
                        .bias = bias != nullptr,
                        .relu = relu,
                        .float32_outputs = y.dtype == DType::kFloat32};
  auto it = chosen_.find(shape);
  if (it == chosen_.end()) {
    shape.rows = ChoiceRows(x.rows);
    it = chosen_.find(shape);
  }
  // What other rows chose may not do for these, and a file may say anything:
  // then these choose anew, for themselves.
  const bool known = it != chosen_.end() && (it->second.searched || !searches_);
  if (known) {
    const auto algo = std::bit_cast<cublasLtMatmulAlgo_t>(it->second.algo);
    if (problem.Run(runtime_, algo, stream) == CUBLAS_STATUS_SUCCESS) {
      return absl::OkStatus();
    }
    shape.rows = x.rows;
  }
  const SearchEffort effort = Captures(stream) ? SearchEffort::kGuess
                              : searches_      ? SearchEffort::kSearch
                                               : SearchEffort::kQuick;
  H2O_ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t algo,
                       ChooseProductAlgo(problem, effort, runtime_, stream));
  H2O_RETURN_IF_ERROR(
      ToStatus(problem.Run(runtime_, algo, stream), "matrix product"));
  if (effort == SearchEffort::kGuess) return absl::OkStatus();
  return Keep(shape, {searches_, std::bit_cast<ProductAlgo>(algo)}, known);
}

absl::Status LinearProducts::Keep(const ProductShape& shape,
                                  const ProductChoice& choice, bool overrules) {
  chosen_.insert_or_assign(shape, choice);
  const bool kept =
      !path_.empty() && KeepProductChoice(shape, choice, overrules, path_);
  if (searches_ && !kept) {
    return absl::FailedPreconditionError(
        absl::StrCat("what was searched for cannot be kept in '", path_,
                     "': no such directory, or it may not be written"));
  }
  return absl::OkStatus();
}

}  // namespace h2o::cuda
