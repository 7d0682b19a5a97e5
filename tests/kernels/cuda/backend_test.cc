// What a CUDA backend refuses when it is made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/kernels.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

CudaBackendOptions Opt30b() {
  CudaBackendOptions options;
  options.max_prompt_rows = 2048;
  options.max_heads = 56;
  options.head_dim = 128;
  options.max_slots = 2048;
  options.hidden_size = 7168;
  options.embed_dim = 7168;
  return options;
}

void ExpectRefused(const CudaBackendOptions& options, const std::string& text) {
  const absl::Status status = NewCudaBackend(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

TEST(CudaBackend, RefusesSizesThatItsKernelsLack) {
  H2O_SKIP_WITHOUT_GPU();
  EXPECT_TRUE(NewCudaBackend(Opt30b()).ok());
  CudaBackendOptions options = Opt30b();
  options.max_slots = cuda::MostSlots(128);
  EXPECT_TRUE(NewCudaBackend(options).ok());
  options.max_slots += 1;
  ExpectRefused(options, " positions; on this GPU heads of 128 have up to ");
  options = Opt30b();
  options.hidden_size = cuda::kMostNormColumns + 1;
  ExpectRefused(options,
                "hidden size 12289; the CUDA kernels have up to 12288");
  options = Opt30b();
  options.embed_dim = 12;
  ExpectRefused(options,
                "embeddings of 12; the CUDA kernels have multiples of 8");
  options = Opt30b();
  options.head_dim = 96;
  ExpectRefused(options, "head_dim 96; the CUDA kernels have 64, 80, 128");
  options = Opt30b();
  options.dtype = DType::kFloat32;
  ExpectRefused(options, "dtype float32");
}

}  // namespace
}  // namespace h2o
