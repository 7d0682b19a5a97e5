// Runs each matrix product with the kernel that was fastest for its shape.
#include "kernels/cuda/linear.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <string>

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/product_search.h"

namespace h2o::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{64} << 20;

StoredMatrix AsStored(const Matrix& x) {
  return {x.data, FormatOf(x.dtype), x.rows, x.columns, x.stride};
}

bool Captures(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(stream, &status);
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinearProducts>> LinearProducts::Create(
    const std::string& directory, bool searches, const Fp8Inputs& fp8_inputs) {
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
  H2O_RETURN_IF_ERROR(
      products->PrepareStreaming(properties.multiProcessorCount));
  H2O_RETURN_IF_ERROR(products->rounded_.MakeRoom(fp8_inputs));
  return products;
}

absl::Status LinearProducts::PrepareStreaming(int multiprocessors) {
  if (!StreamsProducts()) return absl::OkStatus();
  const int64_t partial_bytes =
      StreamedProductWorkspace::PartialBytes(multiprocessors);
  const int64_t ready_bytes =
      CeilDiv(multiprocessors * int64_t{sizeof(*streamed_.ready)}, 256) * 256;
  const int64_t bytes = partial_bytes + ready_bytes;
  void* memory = nullptr;
  H2O_RETURN_IF_ERROR(ToStatus(cudaMalloc(&memory, bytes), "workspace"));
  streamed_.partials = static_cast<float*>(memory);
  streamed_.ready = reinterpret_cast<uint32_t*>(
      static_cast<std::byte*>(memory) + partial_bytes);
  H2O_RETURN_IF_ERROR(ToStatus(cudaMemset(memory, 0, bytes), "workspace"));
  H2O_RETURN_IF_ERROR(ToStatus(cudaDeviceSynchronize(), "workspace"));
  streamed_.shares = multiprocessors;
  streamed_bytes_ = bytes;
  return absl::OkStatus();
}

bool LinearProducts::Streams(const Matrix& x, const Matrix& y) const {
  return streamed_.shares > 0 && x.rows <= kMostStreamedPlainRows &&
         x.stride % 8 == 0 && y.stride % 8 == 0 && y.dtype == x.dtype;
}

absl::Status LinearProducts::Stream(const Matrix& x, const StoredMatrix& weight,
                                    const void* bias, bool relu,
                                    const Matrix& y,
                                    cudaStream_t stream) const {
  H2O_CHECK(!IsPlain(weight.format) || FormatOf(x.dtype) == weight.format);
  H2O_CHECK(!IsPlain(weight.format) || x.stride >= weight.stride)
      << x.stride << " < " << weight.stride;
  StreamedProductArgs args;
  args.weight = weight.data;
  args.format = weight.format;
  args.scales = weight.scales;
  args.group = weight.group;
  args.outputs = weight.rows;
  // The padding of both is zero, so whole strides are multiplied.
  args.inputs = args.weight_stride = weight.stride;
  args.x = x.data;
  args.x_stride = x.stride;
  args.bias = bias;
  args.relu = relu;
  args.y = y.data;
  args.y_stride = y.stride;
  args.rows = static_cast<int>(x.rows);
  args.dtype = x.dtype;
  args.workspace = streamed_;
  return ToStatus(StreamedProduct(args, stream), "product of few rows");
}

LinearProducts::~LinearProducts() {
  cudaFree(whole_);
  cudaFree(streamed_.partials);
  if (runtime_.end != nullptr) cudaEventDestroy(runtime_.end);
  if (runtime_.begin != nullptr) cudaEventDestroy(runtime_.begin);
  cudaFree(runtime_.workspace);
  if (runtime_.handle != nullptr) cublasLtDestroy(runtime_.handle);
}

absl::Status LinearProducts::Run(Matrix x, const StoredMatrix& weight,
                                 const void* bias, bool relu, Matrix y,
                                 cudaStream_t stream) {
  if (Rounds(weight)) {
    H2O_ASSIGN_OR_RETURN(const StoredMatrix rounded,
                         rounded_.Round(x, weight.stride, stream));
    return Multiply(rounded, weight, bias, relu, y, stream);
  }
  if (!IsPlain(weight.format)) {
    return StreamParts(x, weight, bias, relu, y, stream);
  }
  if (Streams(x, y)) return Stream(x, weight, bias, relu, y, stream);
  return Multiply(AsStored(x), weight, bias, relu, y, stream);
}

absl::Status LinearProducts::StreamParts(const Matrix& x,
                                         const StoredMatrix& weight,
                                         const void* bias, bool relu,
                                         const Matrix& y,
                                         cudaStream_t stream) const {
  H2O_CHECK(takes_codes() && y.dtype == x.dtype);
  const auto rows_of = [](const Matrix& m, int64_t first, int64_t count) {
    Matrix part = m;
    part.rows = count;
    part.data =
        static_cast<std::byte*>(m.data) + first * m.stride * SizeOf(m.dtype);
    return part;
  };
  for (int64_t first = 0; first < x.rows; first += kMostStreamedRows) {
    const int64_t count = std::min(int64_t{kMostStreamedRows}, x.rows - first);
    H2O_RETURN_IF_ERROR(Stream(rows_of(x, first, count), weight, bias, relu,
                               rows_of(y, first, count), stream));
  }
  return absl::OkStatus();
}

absl::Status LinearProducts::Multiply(const StoredMatrix& x,
                                      const StoredMatrix& weight,
                                      const void* bias, bool relu,
                                      const Matrix& y, cudaStream_t stream) {
  const ProductProblem problem(x, weight, bias, relu, y);
  const bool fp8 = weight.format == WeightFormat::kFp8;
  ProductShape shape = {.outputs = weight.rows,
                        .inputs = weight.stride,
                        .rows = x.rows,
                        .dtype = fp8 ? y.dtype : DTypeOf(weight.format),
                        .bias = bias != nullptr,
                        .relu = relu,
                        .float32_outputs = y.dtype == DType::kFloat32,
                        .fp8 = fp8};
  auto it = chosen_.find(shape);
  if (it == chosen_.end()) {
    shape.rows = ChoiceRows(x.rows);
    it = chosen_.find(shape);
  }
  // A kernel chosen for another number of rows may not support this one, and
  // the file may hold anything.  If the kernel fails, choose one for these
  // rows.
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

absl::Status LinearProducts::MakeRoomToRound(const StoredMatrix& weight) {
  if (weight.format != WeightFormat::kInt4) return absl::OkStatus();
  const int64_t numbers = WholeRows::NumberBytes(kMostWholeRows, weight.stride);
  const int64_t bytes =
      numbers + WholeRows::GroupBytes(kMostWholeRows, weight.stride);
  if (bytes <= whole_bytes_) return absl::OkStatus();
  cudaFree(whole_);
  whole_bytes_ = 0;
  H2O_RETURN_IF_ERROR(ToStatus(cudaMalloc(&whole_, bytes), "room to round"));
  whole_bytes_ = bytes;
  streamed_.whole.numbers = static_cast<int8_t*>(whole_);
  streamed_.whole.groups =
      reinterpret_cast<WholeGroup*>(static_cast<std::byte*>(whole_) + numbers);
  return absl::OkStatus();
}

absl::Status LinearProducts::Arrange(const StoredMatrix& weight, void* codes,
                                     void* scales, cudaStream_t stream) {
  if (Rounds(weight)) return absl::OkStatus();
  H2O_RETURN_IF_ERROR(MakeRoomToRound(weight));
  const bool in_groups = weight.format == WeightFormat::kInt4;
  const int64_t code_bytes = weight.bytes();
  const int64_t bytes = code_bytes + (in_groups ? weight.scale_bytes() : 0);
  void* memory = nullptr;
  H2O_RETURN_IF_ERROR(
      ToStatus(cudaMallocAsync(&memory, bytes, stream), "memory to arrange"));
  ArrangeCodesArgs args;
  args.codes = codes;
  args.scales = scales;
  args.format = weight.format;
  args.group = weight.group;
  args.outputs = weight.rows;
  args.inputs = weight.stride;
  args.arranged = memory;
  args.arranged_scales = static_cast<std::byte*>(memory) + code_bytes;
  cudaError_t error = ArrangeCodes(args, stream);
  const auto copy_back = [&](void* to, const void* from, int64_t size) {
    if (error != cudaSuccess) return;
    error = cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream);
  };
  copy_back(codes, args.arranged, code_bytes);
  if (in_groups) copy_back(scales, args.arranged_scales, bytes - code_bytes);
  cudaFreeAsync(memory, stream);
  return ToStatus(error, "arranged codes");
}

}  // namespace h2o::cuda
