// Measures how fast a GPU multiplies matrices of e4m3 codes.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/machine_rates.h"
#include "kernels/cuda/product_problem.h"
#include "kernels/cuda/product_search.h"

namespace h2o::cuda {
namespace {

constexpr int64_t kSide = 8192, kCodes = kSide * kSide;
// On end, as a server's products are, so that the GPU's clock settles under its
// power cap.
constexpr int kRuns = 200;
constexpr size_t kWorkspaceBytes = size_t{64} << 20;

// Two matrices of random codes with scales of 1, their product, and what
// cuBLASLt needs.
class SquareProduct {
 public:
  SquareProduct() {
    Ok(cudaMalloc(&memory_, 4 * kCodes + kSide * int64_t{sizeof(float)}));
    auto* const bytes = static_cast<std::byte*>(memory_);
    auto* const scales = reinterpret_cast<float*>(bytes + 4 * kCodes);
    const std::vector<float> ones(kSide, 1);
    Ok(cudaMemcpy(scales, ones.data(), kSide * sizeof(float),
                  cudaMemcpyHostToDevice));
    StoredMatrix* const matrices[] = {&x_, &weight_};
    for (int i = 0; i < 2; ++i) {
      std::byte* const codes = bytes + i * kCodes;
      Ok(FillDummyCodes(5, i, WeightFormat::kFp8, 0, kSide, 0, kSide, kSide,
                        codes, kSide, nullptr));
      *matrices[i] = {codes, WeightFormat::kFp8, kSide, kSide, kSide, scales};
    }
    y_ = {bytes + 2 * kCodes, kSide, kSide, kSide, DType::kBFloat16};
    H2O_CHECK(cublasLtCreate(&runtime_.handle) == CUBLAS_STATUS_SUCCESS);
    Ok(cudaMalloc(&runtime_.workspace, kWorkspaceBytes));
    runtime_.workspace_bytes = kWorkspaceBytes;
    Ok(cudaEventCreate(&runtime_.begin));
    Ok(cudaEventCreate(&runtime_.end));
  }
  ~SquareProduct() {
    cudaEventDestroy(runtime_.end);
    cudaEventDestroy(runtime_.begin);
    cudaFree(runtime_.workspace);
    cublasLtDestroy(runtime_.handle);
    cudaFree(memory_);
  }
  SquareProduct(const SquareProduct&) = delete;

  // Median seconds; 0: this GPU has no such product.
  double Seconds() const {
    const ProductProblem problem(x_, weight_, nullptr, false, y_);
    const auto algo =
        ChooseProductAlgo(problem, SearchEffort::kQuick, runtime_, nullptr);
    if (!algo.ok()) return 0;
    std::vector<float> ms(kRuns);
    for (float& of_run : ms) {
      Ok(cudaEventRecord(runtime_.begin));
      H2O_CHECK(problem.Run(runtime_, *algo, nullptr) == CUBLAS_STATUS_SUCCESS);
      Ok(cudaEventRecord(runtime_.end));
      Ok(cudaEventSynchronize(runtime_.end));
      Ok(cudaEventElapsedTime(&of_run, runtime_.begin, runtime_.end));
    }
    std::nth_element(ms.begin(), ms.begin() + kRuns / 2, ms.end());
    return 1e-3 * ms[kRuns / 2];
  }

 private:
  static void Ok(cudaError_t error) {
    H2O_CHECK(error == cudaSuccess) << cudaGetErrorString(error);
  }

  void* memory_ = nullptr;
  StoredMatrix x_, weight_;
  Matrix y_;
  ProductRuntime runtime_;
};

}  // namespace

double MeasureFp8Rate() {
  const double seconds = SquareProduct().Seconds();
  return seconds == 0 ? 0 : 2.0 * kSide * kSide * kSide / seconds;
}

}  // namespace h2o::cuda
