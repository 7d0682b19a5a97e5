// Checks that the widths of heads are refused and dispatched from one list.
#include "base/head_dim.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace h2o {
namespace {

using ::testing::HasSubstr;

TEST(HeadDim, GpusHaveTheWidthsOfOpt) {
  for (int head_dim : {64, 80, 128}) {
    EXPECT_TRUE(CheckCudaHeadDim(head_dim).ok()) << head_dim;
  }
  const absl::Status refused = CheckCudaHeadDim(96);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("head_dim 96; the CUDA kernels have 64, 80, 128"));
}

TEST(HeadDim, CpusHaveWholeVectors) {
  for (int head_dim : {16, 64, 80, 96, 256}) {
    EXPECT_TRUE(CheckCpuHeadDim(head_dim).ok()) << head_dim;
  }
  for (int head_dim : {-16, 0, 8, 20, 272}) {
    EXPECT_EQ(CheckCpuHeadDim(head_dim).code(),
              absl::StatusCode::kInvalidArgument)
        << head_dim;
  }
}

TEST(HeadDim, DispatchCallsTheFunctionOfThatWidth) {
  const auto own_width = []<int kHeadDim>() { return kHeadDim; };
  for (int head_dim : kCudaHeadDims) {
    EXPECT_EQ(DispatchHeadDim(head_dim, -1, own_width), head_dim);
  }
  EXPECT_EQ(DispatchHeadDim(96, -1, own_width), -1);
}

}  // namespace
}  // namespace h2o
