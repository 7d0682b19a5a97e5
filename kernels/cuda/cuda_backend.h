// The CUDA twin of Backend: own kernels for attention and everything small,
// cuBLASLt for matrix products, decode steps as CUDA graphs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/machine_rates.h"

namespace h2o {

struct CudaBackendOptions {
  int ordinal = 0;                 // of the GPU
  DType dtype = DType::kBFloat16;  // weights, activations, KV cache
  int64_t max_prompt_rows = 0;     // of PrefillAttention, all prompts
  int64_t max_heads = 0;           // likewise
  int head_dim = 0;
  int64_t max_slots = 0;         // of a head
  int64_t hidden_size = 0;       // columns of what is normalised
  int64_t embed_dim = 0;         // and of what is embedded
  std::string cache_directory;   // of choices that outlive us; empty: none do
  bool search_products = false;  // at length, a product's kernel: for tuning
};

// Asked in a process of its own: this one may still fork ranks, which CUDA
// would not survive.  Errors: FAILED_PRECONDITION if this build has no CUDA or
// the machine no such GPU.
absl::Status CheckGpu(int ordinal);

// The ceilings of a GPU, measured in a process of its own: it takes 8 GiB of
// the GPU for some seconds.  Errors: those of CheckGpu.
absl::StatusOr<MachineRates> MeasureGpuRates(int ordinal);

// Errors: those of CheckGpu, INVALID_ARGUMENT for a dtype or size that the
// kernels do not have, RESOURCE_EXHAUSTED if memory is short.
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    const CudaBackendOptions& options);

}  // namespace h2o
