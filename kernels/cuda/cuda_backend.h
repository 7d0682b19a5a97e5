// The CUDA twin of Backend.  Large matrix products are cuBLASLt's, all other
// kernels are our own.  Decode steps run as CUDA graphs.
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
  int64_t max_slots = 0;    // of a head
  int64_t hidden_size = 0;  // columns of AddNorm
  int64_t embed_dim = 0;    // columns of Embed
  int64_t max_inputs = 0;   // of a layer's products
  // Most rows of products with fp8 weights, whose inputs then are rounded to
  // e4m3, too (base/fp8_rows.h); 0: they are not.
  int64_t fp8_rows = 0;
  std::string cache_directory;   // of choices of kernels; empty: none are kept
  bool search_products = false;  // for tuning: seconds a product's shape
};

// With fp8_rows, outputs of products with fp8 weights are a multiple of this.
inline constexpr int64_t kFp8OutputStep = 16;

// Asks CUDA in a child process, because this process may still fork ranks and
// CUDA does not survive a fork.  Errors: FAILED_PRECONDITION if this build has
// no CUDA or the machine no such GPU.
absl::Status CheckGpu(int ordinal);

// Measures the limits of a GPU in a child process, with 8 GiB of its memory, in
// some seconds.  Errors: those of CheckGpu.
absl::StatusOr<MachineRates> MeasureGpuRates(int ordinal);

// Errors: those of CheckGpu, INVALID_ARGUMENT for a dtype or size that the
// kernels do not have, RESOURCE_EXHAUSTED if memory is short.
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    const CudaBackendOptions& options);

}  // namespace h2o
