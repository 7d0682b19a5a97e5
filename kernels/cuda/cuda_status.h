// The error codes of the runtime and of cuBLAS as absl::Status.
#pragma once

#include <cublasLt.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_error.h"

namespace h2o::cuda {

inline absl::Status ToStatus(cublasStatus_t error, const char* what) {
  if (error == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cuBLAS ", what, ": ", cublasLtGetStatusString(error)));
}

}  // namespace h2o::cuda
