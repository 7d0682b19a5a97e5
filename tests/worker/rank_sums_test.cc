// Checks how RankSums chooses the way of each number of rows.
#include "worker/rank_sums.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "parallel/solo_communicator.h"

namespace h2o {
namespace {

constexpr float kNever = std::numeric_limits<float>::infinity();

// By SumWay: push, pull, share, all-reduce.
TEST(ChooseSums, TakesTheQuickestOfEachNumberOfRows) {
  const std::vector<SumTimes> times = {{1, {5, 9, 10, 12}},
                                       {32, {8, 9, 9, 14}},
                                       {64, {kNever, 12, 11, 18}},
                                       {128, {kNever, 30, 14, 20}},
                                       {2048, {kNever, 300, 90, 80}}};
  EXPECT_EQ(ChooseSums(times),
            (std::vector<SumChoice>{{32, SumWay::kPush},
                                    {128, SumWay::kShare},
                                    {2048, SumWay::kAllReduce}}));
}

TEST(ChooseSums, ChanceDoesNotDecide) {
  EXPECT_EQ(ChooseSums({{64, {kNever, 100, 99, 98.5f}}}),
            (std::vector<SumChoice>{{64, SumWay::kPull}}));
  EXPECT_EQ(ChooseSums({{64, {kNever, 100, 99, 97.5f}}}),
            (std::vector<SumChoice>{{64, SumWay::kAllReduce}}));
}

TEST(ChooseSums, AWayMayComeBack) {
  const std::vector<SumTimes> times = {{32, {9, 8, 9, 9}},
                                       {48, {kNever, 20, 10, 20}},
                                       {64, {kNever, 20, 40, 30}}};
  EXPECT_EQ(ChooseSums(times), (std::vector<SumChoice>{{32, SumWay::kPull},
                                                       {48, SumWay::kShare},
                                                       {64, SumWay::kPull}}));
}

// Ranks whose memory is their own have one way, and measure nothing.
TEST(RankSums, WithoutPeersTheCommunicatorSums) {
  CpuBackendOptions options;
  options.max_rows = 4;
  options.max_inputs = 32;
  options.head_dim = 32;
  const auto backend = NewCpuBackend(options);
  ASSERT_TRUE(backend.ok()) << backend.status();
  SoloCommunicator alone;
  std::vector<float> whole(4 * 32), scratch(4 * 32);
  const auto sums =
      RankSums::Create(backend->get(), &alone, {whole.data(), 4, 32, 32},
                       {scratch.data(), 4, 32, 32});
  ASSERT_TRUE(sums.ok()) << sums.status();
  EXPECT_TRUE(sums->times().empty());
  EXPECT_EQ(sums->bytes(), 0);
  EXPECT_EQ(sums->ToString(), "all-reduce up to 4 rows");
  const Delta part = sums->PartOf(3, 1);
  EXPECT_EQ(part.mine.data, whole.data());
  EXPECT_EQ(part.mine.rows, 3);
  EXPECT_EQ(part.peers, nullptr);
}

}  // namespace
}  // namespace h2o
