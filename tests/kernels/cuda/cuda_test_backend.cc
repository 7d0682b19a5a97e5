// Runs the tests of kernels on a GPU, if the machine has one.
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/kernels/test_backend.h"

namespace h2o {

std::vector<std::string> BackendVariants() { return {"Cuda"}; }

std::vector<DType> BackendFormats() {
  return {DType::kBFloat16, DType::kFloat16};
}

std::vector<int> BackendRowCounts() { return {1, 3, 40, 300}; }
std::vector<int> BackendColumnCounts() {
  return {96, 768, 2560, 7168, 12288};
}

int AffordableDraws(int wanted) { return wanted; }

std::unique_ptr<Backend> NewTestBackend(const std::string&, DType dtype) {
  if (!HaveGpu()) return nullptr;
  CudaBackendOptions options;
  options.dtype = dtype;
  options.max_prompt_rows = options.max_slots = 64;
  options.max_heads = 1;
  options.head_dim = 64;
  options.hidden_size = 12288;
  options.embed_dim = 12288;
  auto backend = NewCudaBackend(options);
  H2O_CHECK(backend.ok()) << backend.status();
  return *std::move(backend);
}

}  // namespace h2o
