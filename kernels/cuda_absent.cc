// What a build without CUDA links in the place of kernels/cuda.
#include "kernels/cuda/cuda_backend.h"

namespace h2o {

absl::Status CheckGpu(int) {
  return absl::FailedPreconditionError(
      "device cuda: this build has no CUDA; the device must be cpu");
}

absl::StatusOr<MachineRates> MeasureGpuRates(int ordinal) {
  return CheckGpu(ordinal);
}

absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    const CudaBackendOptions& options) {
  return CheckGpu(options.ordinal);
}

}  // namespace h2o
