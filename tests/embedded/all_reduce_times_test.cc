// Ranks of every kind that needs no GPU; each checks all sums bit by bit.
#include "embedded/all_reduce_times.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

AllReduceOptions Few(RankKind kind, int ranks) {
  AllReduceOptions options;
  options.kind = kind;
  options.ranks = ranks;
  options.bytes = {4, 2048, 2048, 100'004};
  options.seconds = 0.005;
  options.verify = true;
  return options;
}

void ExpectTimes(const AllReduceOptions& options) {
  const auto times = MeasureAllReduces(options);
  ASSERT_TRUE(times.ok()) << times.status();
  ASSERT_EQ(times->size(), options.bytes.size());
  for (size_t i = 0; i < times->size(); ++i) {
    const AllReduceTime& time = (*times)[i];
    EXPECT_EQ(time.bytes, options.bytes[i]);
    EXPECT_GE(time.operations, 10 * options.batch);
    EXPECT_GT(time.median, 0);
    EXPECT_LE(time.p10, time.median);
    EXPECT_LE(time.median, time.p90);
  }
}

TEST(MeasureAllReduces, OfThreads) {
  ExpectTimes(Few(RankKind::kThreads, 1));
  ExpectTimes(Few(RankKind::kThreads, 3));
}

TEST(MeasureAllReduces, OfProcesses) {
  ExpectTimes(Few(RankKind::kProcesses, 3));
  ExpectTimes(Few(RankKind::kHosts, 2));
}

TEST(MeasureAllReduces, InBatches) {
  AllReduceOptions options = Few(RankKind::kThreads, 2);
  options.batch = 4;
  ExpectTimes(options);
}

TEST(MeasureAllReduces, TellsWhatARankHasNot) {
  for (RankKind kind : {RankKind::kThreads, RankKind::kProcesses}) {
    AllReduceOptions options = Few(kind, 2);
    options.bytes = {int64_t{1} << 60};
    const absl::Status status = MeasureAllReduces(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  }
}

TEST(MeasureAllReduces, OfGpusThatAreNotThere) {
  AllReduceOptions options = Few(RankKind::kGpus, 2);
  options.first_gpu = 1000;
  const absl::Status status = MeasureAllReduces(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("device cuda"));
}

TEST(MeasureAllReduces, OfTwoGpus) {
  if (!CheckGpu(1).ok()) GTEST_SKIP() << CheckGpu(1).message();
  AllReduceOptions options = Few(RankKind::kGpus, 2);
  options.batch = 50;
  ExpectTimes(options);
}

}  // namespace
}  // namespace h2o
