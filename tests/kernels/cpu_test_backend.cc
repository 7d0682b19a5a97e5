// Runs the tests of kernels on the CPU, on every instruction set it has.
#include "hwy/highway.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/each_target.h"
#include "tests/kernels/test_backend.h"

namespace h2o {

std::vector<std::string> BackendVariants() {
  std::vector<std::string> names;
  for (const int64_t target : RunnableTargets()) {
    names.push_back(hwy::TargetName(target));
  }
  return names;
}

std::vector<DType> BackendFormats() {
  return {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
}
std::vector<int> BackendRowCounts() { return {1, 3, 20}; }
std::vector<int> BackendColumnCounts() { return {16, 33, 96, 768}; }

// The CPU draws with the very function that it is compared with.
int AffordableDraws(int wanted) { return wanted / 1000 + 2; }

std::unique_ptr<Backend> NewTestBackend(const std::string& variant, DType) {
  for (const int64_t target : RunnableTargets()) {
    if (variant == hwy::TargetName(target)) {
      hwy::SetSupportedTargetsForTest(target);
    }
  }
  CpuBackendOptions options;
  options.num_threads = 2;
  options.max_prompt = options.max_slots = options.max_rows = 64;
  options.max_inputs = 12288;
  options.max_heads = 1;
  options.vocab_size = 50272;
  options.head_dim = 64;
  return NewCpuBackend(options).value();
}

}  // namespace h2o
