// The runtime's error codes as absl::Status.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace h2o::cuda {

// `what` was being done.  Memory that is short is RESOURCE_EXHAUSTED, all else
// INTERNAL.
inline absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text =
      absl::StrCat("CUDA ", what, ": ", cudaGetErrorString(error), " (",
                   cudaGetErrorName(error), ")");
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text)
                                            : absl::InternalError(text);
}

}  // namespace h2o::cuda
