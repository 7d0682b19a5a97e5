// The CPU twin of Backend: own kernels for attention and for few rows, oneDNN
// for many, on a pool of threads.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/host_memory.h"
#include "kernels/backend.h"

namespace h2o {

struct CpuBackendOptions {
  int num_threads = 1;
  int64_t max_prompt = 0;  // longest prompt of PrefillAttention
  int64_t max_slots = 0;   // most slots of a head in DecodeAttention
  int64_t max_rows = 0;    // most rows of Linear
  int64_t max_inputs = 0;  // widest input of Linear
  int64_t max_heads = 0;   // of PrefillAttention
  int64_t vocab_size = 0;  // of Sample
  int head_dim = 0;
  int head_padding = 0;  // zeros behind each head: they do not count as width
  // Products of bf16 weights through the CPU's bf16 units, where it has them;
  // activations are rounded to bf16 on the way in.  Off: float32 throughout.
  bool bf16_products = false;
  // Products with fp8 weights round their inputs to e4m3 (base/fp8_rows.h).
  bool fp8_activations = false;
  const Clock* clock = nullptr;  // of marks; null: the steady clock
  // Where what is allocated is claimed; must outlive the backend.  Null: it is
  // not.
  HostMemory* memory = nullptr;
};

// Takes all scratch memory at once.
// Errors: INVALID_ARGUMENT for a head_dim the kernels do not have,
// RESOURCE_EXHAUSTED if memory is short.
absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(
    const CpuBackendOptions& options);

}  // namespace h2o
