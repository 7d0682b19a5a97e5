// AddNorm of several ranks.  Here all ranks are streams of one GPU and their
// memory is ordinary, which the kernel cannot tell: it runs as on several.  All
// blocks of all ranks must fit on the GPU at once.
#include "kernels/peer_sums.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o {
namespace {

constexpr int kMaxRows = 66;
// Where a rank's memory has the number of the last sum.
constexpr int64_t kEpochAt = 1024;
constexpr std::chrono::seconds kPatience{60};
constexpr std::chrono::milliseconds kLag{3};

// Of many magnitudes, so that float32 sums show their order.
std::vector<float> RandomAddend(int64_t size, uint64_t seed) {
  std::vector<float> addend = Uniform(size, seed, 1);
  for (float& v : addend) v *= v * v;
  return addend;
}

// Of one float32 addition to a sum that grows and grows.
double Tolerance(double sum) { return 1e-5 + std::abs(sum) / (1 << 23); }

struct Sum {
  int rows;
  SumWay way;
};
Sum Push(int rows) { return {rows, SumWay::kPush}; }
Sum Pull(int rows) { return {rows, SumWay::kPull}; }
Sum Share(int rows) { return {rows, SumWay::kShare}; }

struct Rank {
  Rank(const PeerSums& layout, int columns)
      : memory(layout.bytes),
        x(Uniform(int64_t{kMaxRows} * columns, 1, 1)),
        out(int64_t{kMaxRows} * columns) {
    CheckCuda(cudaMemset(memory.data(), 0, layout.bytes));
    CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  }
  ~Rank() { cudaStreamDestroy(stream); }

  DeviceArray<std::byte> memory;
  DeviceArray<float> x;  // the same on every rank
  DeviceArray<uint16_t> out;
  PeerSums sums;
  cudaStream_t stream = nullptr;
};

class Group {
 public:
  Group(int ranks, int columns, DType dtype)
      : columns_(columns),
        dtype_(dtype),
        bias_(Narrow(Uniform(columns, 2, 1), dtype)),
        norm_weight_(Uniform(columns, 3, 1)),
        norm_bias_(Uniform(columns, 4, 1)),
        want_(Uniform(int64_t{kMaxRows} * columns, 1, 1)) {
    CheckCuda(cudaMallocHost(&aborted_, sizeof(uint32_t)));
    *aborted_ = 0;
    const PeerSums layout = PeerSums::Of(ranks, kMaxRows, 2 * columns);
    for (int r = 0; r < ranks; ++r) {
      ranks_.push_back(std::make_unique<Rank>(layout, columns));
    }
    for (int r = 0; r < ranks; ++r) {
      PeerSums& sums = ranks_[r]->sums = layout;
      sums.memory.rank = r;
      sums.memory.size = ranks;
      sums.memory.aborted = aborted_;
      for (int p = 0; p < ranks; ++p) {
        sums.memory.of_rank[p] = ranks_[p]->memory.data();
      }
    }
    CheckCuda(cudaDeviceSynchronize());
  }
  ~Group() {
    ranks_.clear();
    cudaFreeHost(aborted_);
  }

  // As if so many sums had been pushed: every 2^29th tells, as the kernel's
  // next one of these will.
  void PushUpTo(uint32_t epoch) {
    for (uint64_t told = 1u << 29; told <= epoch; told += 1u << 29) {
      SetLastSum(static_cast<uint32_t>(told) - 1);
      ASSERT_NO_FATAL_FAILURE(SumAndCheck(Push(1), told >> 29));
    }
    SetLastSum(epoch);
  }
  void SetLastSum(uint32_t epoch) {
    for (const auto& rank : ranks_) {
      CheckCuda(cudaMemcpy(rank->memory.data() + kEpochAt, &epoch,
                           sizeof(epoch), cudaMemcpyHostToDevice));
    }
  }

  // One sum: what all ranks hold after it.  The last rank has its addend, and
  // comes, long after the others.
  void SumAndCheck(Sum sum, uint64_t seed) {
    const int64_t n = int64_t{sum.rows} * columns_;
    std::vector<std::vector<uint16_t>> bits;
    std::vector<std::vector<float>> addends;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      bits.push_back(Narrow(RandomAddend(n, 100 * seed + r), dtype_));
      addends.push_back(Widen(bits[r], dtype_));
      CheckCuda(
          cudaMemset(ranks_[r]->out.data(), 0xff, 2 * ranks_[r]->out.size()));
      CheckCuda(cudaMemset(ranks_[r]->sums.Addend(turn_), 0xff, 2 * n));
    }
    CheckCuda(cudaDeviceSynchronize());
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const Rank& rank = *ranks_[r];
      if (r + 1 == ranks_.size()) std::this_thread::sleep_for(kLag);
      CheckCuda(cudaMemcpyAsync(rank.sums.Addend(turn_), bits[r].data(), 2 * n,
                                cudaMemcpyHostToDevice, rank.stream));
      Launch(r, sum);
    }
    turn_ ^= 1;
    ASSERT_NO_FATAL_FAILURE(Await());
    Check(sum, addends);
  }

  // Sums of the two addends in turn, with nobody waiting in between: what all
  // ranks hold after them.  Addends stay as they are, but for those shared.
  void SumInARow(const std::vector<Sum>& sums, uint64_t seed) {
    const int64_t n = int64_t{kMaxRows} * columns_;
    const std::vector<float> bias = Widen(bias_.Read(), dtype_);
    std::vector<std::vector<float>> addends[2];  // of turns, of ranks
    for (size_t r = 0; r < ranks_.size(); ++r) {
      for (int turn : {0, 1}) {
        const std::vector<uint16_t> bits =
            Narrow(RandomAddend(n, 100 * seed + 2 * r + turn), dtype_);
        addends[turn].push_back(Widen(bits, dtype_));
        CheckCuda(cudaMemcpy(ranks_[r]->sums.Addend(turn), bits.data(), 2 * n,
                             cudaMemcpyHostToDevice));
      }
    }
    std::vector<double> want(want_.begin(), want_.end());
    int turn = turn_;
    for (const Sum& sum : sums) {
      for (int64_t i = 0; i < int64_t{sum.rows} * columns_; ++i) {
        float whole = 0;  // as the kernel adds up
        for (const auto& addend : addends[turn]) whole += addend[i];
        if (sum.way == SumWay::kShare) {
          whole = Rounded(whole);
          for (auto& addend : addends[turn]) addend[i] = whole;
        }
        want[i] += double{whole} + bias[i % columns_];
      }
      turn ^= 1;
    }
    CheckCuda(cudaDeviceSynchronize());
    const int first_turn = turn_;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      if (r + 1 == ranks_.size()) std::this_thread::sleep_for(kLag);
      turn_ = first_turn;
      for (const Sum& sum : sums) {
        Launch(r, sum);
        turn_ ^= 1;
      }
    }
    ASSERT_NO_FATAL_FAILURE(Await());
    const std::vector<float> x = ranks_[0]->x.Read();
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_NEAR(x[i], want[i], sums.size() * Tolerance(want[i]))
          << "x of " << i / columns_ << ", " << i % columns_;
    }
    ASSERT_NO_FATAL_FAILURE(CheckAlike());
    want_ = x;
  }

  void Launch(size_t r, Sum sum) {
    Rank& rank = *ranks_[r];
    cuda::AddNormArgs args;
    args.x = rank.x.data();
    args.x_stride = columns_;
    args.delta = rank.sums.Addend(turn_);
    args.delta_stride = columns_;
    args.bias = bias_.data();
    args.weight = norm_weight_.data();
    args.norm_bias = norm_bias_.data();
    args.out = rank.out.data();
    args.out_stride = columns_;
    args.rows = sum.rows;
    args.columns = columns_;
    args.dtype = dtype_;
    args.peers = rank.sums;
    args.turn = turn_;
    args.way = sum.way;
    CheckCuda(cuda::AddNorm(args, rank.stream));
  }

  // Who waits for ever is given up.
  void Await() {
    auto done =
        std::async(std::launch::async, [] { return cudaDeviceSynchronize(); });
    const bool in_time = done.wait_for(kPatience) == std::future_status::ready;
    if (!in_time) Abort();
    CheckCuda(done.get());
    ASSERT_TRUE(in_time) << "a rank waited for another one for ever";
  }
  void Abort() { *static_cast<volatile uint32_t*>(aborted_) = 1; }

 private:
  float Rounded(float v) const {
    float room = 0;
    StoreElement(&room, dtype_, 0, v);
    return LoadElement(&room, dtype_, 0);
  }
  void Check(Sum sum, const std::vector<std::vector<float>>& addends);
  void CheckAlike();

  const int columns_;
  const DType dtype_;
  DeviceArray<uint16_t> bias_;
  DeviceArray<float> norm_weight_, norm_bias_;
  std::vector<float> want_;  // x
  std::vector<std::unique_ptr<Rank>> ranks_;
  uint32_t* aborted_ = nullptr;
  int turn_ = 0;
};

void Group::Check(Sum how, const std::vector<std::vector<float>>& addends) {
  const int rows = how.rows;
  const std::vector<float> bias = Widen(bias_.Read(), dtype_);
  const std::vector<float> weight = norm_weight_.Read();
  const std::vector<float> norm_bias = norm_bias_.Read();
  const std::vector<float> x = ranks_[0]->x.Read();
  const std::vector<uint16_t> out_bits = ranks_[0]->out.Read();
  const std::vector<float> out = Widen(out_bits, dtype_);
  std::vector<double> sum(columns_);
  for (int r = 0; r < rows; ++r) {
    const int64_t row = int64_t{r} * columns_;
    double mean = 0, variance = 0;
    for (int c = 0; c < columns_; ++c) {
      float whole = 0;  // as the kernel adds up
      for (const auto& addend : addends) whole += addend[row + c];
      if (how.way == SumWay::kShare) whole = Rounded(whole);
      sum[c] = double{want_[row + c]} + bias[c] + whole;
      mean += sum[c] / columns_;
    }
    for (double s : sum) variance += (s - mean) * (s - mean) / columns_;
    for (int c = 0; c < columns_; ++c) {
      ASSERT_NEAR(x[row + c], sum[c], Tolerance(sum[c]))
          << "x of " << r << ", " << c;
      const double y =
          (sum[c] - mean) / std::sqrt(variance + 1e-5) * weight[c] +
          norm_bias[c];
      ASSERT_NEAR(out[row + c], y, std::abs(y) * HalfUlp(dtype_) + 2e-5)
          << "out of " << r << ", " << c;
    }
  }
  for (size_t i = int64_t{rows} * columns_; i < x.size(); ++i) {
    ASSERT_EQ(x[i], want_[i]) << "behind the rows";
    ASSERT_EQ(out_bits[i], 0xffff) << "behind the rows";
  }
  ASSERT_NO_FATAL_FAILURE(CheckAlike());
  want_ = x;
}

// To the bit.
void Group::CheckAlike() {
  const std::vector<float> x = ranks_[0]->x.Read();
  const std::vector<uint16_t> out = ranks_[0]->out.Read();
  for (const auto& rank : ranks_) {
    const std::vector<float> theirs = rank->x.Read();
    ASSERT_EQ(std::memcmp(theirs.data(), x.data(), x.size() * sizeof(float)), 0)
        << "x of rank " << rank->sums.memory.rank;
    ASSERT_EQ(rank->out.Read(), out)
        << "out of rank " << rank->sums.memory.rank;
  }
}

class PeerSumsTest
    : public ::testing::TestWithParam<std::tuple<int, int, DType>> {
 protected:
  void SetUp() override { H2O_SKIP_WITHOUT_GPU(); }
  int ranks() const { return std::get<0>(GetParam()); }
  Group NewGroup() const {
    return Group(ranks(), std::get<1>(GetParam()), std::get<2>(GetParam()));
  }
  // Most rows whose blocks fit.
  int MostRows() const {
    if (ranks() * std::get<1>(GetParam()) <= 2 * 7168) return 66;
    return ranks() <= 3 ? 34 : 16;
  }
  // As many as fit of these.
  std::vector<Sum> Fitting(std::vector<Sum> sums) const {
    std::erase_if(sums, [&](Sum s) { return s.rows > MostRows(); });
    return sums;
  }
};

TEST_P(PeerSumsTest, EveryRankHasTheSumAndItsNorm) {
  Group group = NewGroup();
  uint64_t seed = 0;
  for (Sum sum :
       Fitting({Push(1), Pull(33), Share(16), Push(16), Share(34), Share(1),
                Push(3), Pull(34), Share(66), Pull(66), Pull(3), Push(32),
                Push(2), Share(2), Pull(64), Share(33), Push(1)})) {
    SCOPED_TRACE(seed);
    ASSERT_NO_FATAL_FAILURE(group.SumAndCheck(sum, ++seed));
  }
}

// Numbers of sums begin anew after 2^32 of them, and what an inbox or a row
// flag held of the lap before is not taken for new, whatever the sums at the
// seam are.
TEST_P(PeerSumsTest, NumbersOfSumsBeginAnew) {
  const Sum pull = Pull(MostRows()), share = Share(MostRows());
  for (const std::vector<Sum>& at_the_seam :
       {std::vector<Sum>{Push(1), Push(2), Push(2), Push(16), Push(16),
                         Push(16), Share(16)},
        std::vector<Sum>{pull, pull, pull, pull, Push(16), pull, share},
        std::vector<Sum>{share, share, share, share, share, Push(16), pull},
        std::vector<Sum>{Push(2), Push(2), Push(2), Push(2), pull, pull,
                         share}}) {
    Group group = NewGroup();
    // Numbers that will come again: 2 behind the fourth at the seam, 3, and 4.
    for (uint64_t number : {1, 2, 3}) {
      ASSERT_NO_FATAL_FAILURE(group.SumAndCheck(Push(16), number));
    }
    ASSERT_NO_FATAL_FAILURE(group.SumAndCheck(share, 4));
    ASSERT_NO_FATAL_FAILURE(group.PushUpTo(0xfffffffb));
    uint64_t seed = 10;
    for (Sum sum : at_the_seam) {
      SCOPED_TRACE(seed);
      ASSERT_NO_FATAL_FAILURE(group.SumAndCheck(sum, ++seed));
    }
  }
}

// However long no sum was pulled or shared, one that is waits for its peers.
TEST_P(PeerSumsTest, PeersAreWaitedForAfterManyPushes) {
  for (Sum sum : {Pull(MostRows()), Share(MostRows())}) {
    Group group = NewGroup();
    ASSERT_NO_FATAL_FAILURE(group.PushUpTo(0x80000010));
    ASSERT_NO_FATAL_FAILURE(group.SumAndCheck(sum, 10));
  }
}

// As in a step: a sum's kernel starts while the one before still runs.
TEST_P(PeerSumsTest, SumsFollowEachOtherAtOnce) {
  if (std::get<1>(GetParam()) > 768 || ranks() > 3) {
    GTEST_SKIP() << "the blocks of two sums of all ranks do not fit at once";
  }
  const Sum pull = Pull(MostRows()), share = Share(MostRows());
  Group group = NewGroup();
  // A kernel that is loaded when it is first launched may wait for those that
  // run, here for a sum whose other ranks come later.
  for (Sum sum : {Push(1), pull, share}) {
    ASSERT_NO_FATAL_FAILURE(group.SumAndCheck(sum, 30));
  }
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    ASSERT_NO_FATAL_FAILURE(group.SumInARow(
        {Push(1), Push(1), pull, share, share, Push(2), pull, pull, share,
         Share(5), pull, Push(16), Share(16), Push(16), Push(1), share},
        seed));
  }
  ASSERT_NO_FATAL_FAILURE(group.PushUpTo(0xfffffffa));
  ASSERT_NO_FATAL_FAILURE(
      group.SumInARow({Push(16), Push(2), pull, Push(1), share, pull, Push(1),
                       Push(16), Share(16), share, Push(2), pull, share},
                      21));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, PeerSumsTest,
    ::testing::Combine(::testing::Values(2, 3, 8),
                       ::testing::Values(96, 768, 7168, 12288),
                       ::testing::Values(DType::kBFloat16, DType::kFloat16)),
    [](const auto& info) {
      return std::to_string(std::get<0>(info.param)) + "ranks" +
             std::to_string(std::get<1>(info.param)) +
             std::string(Name(std::get<2>(info.param)));
    });

// A rank whose peer never comes waits until it is told not to.
TEST(PeerSumsAbort, EndsTheWaiting) {
  H2O_SKIP_WITHOUT_GPU();
  for (Sum sum : {Push(1), Pull(40), Share(40)}) {
    Group group(2, 768, DType::kBFloat16);
    group.Launch(0, sum);
    auto done =
        std::async(std::launch::async, [] { return cudaDeviceSynchronize(); });
    EXPECT_EQ(done.wait_for(std::chrono::milliseconds(200)),
              std::future_status::timeout);
    group.Abort();
    CheckCuda(done.get());
  }
}

TEST(PeerSumsErrors, WhatDoesNotLieWhereItIsSharedIsRefused) {
  H2O_SKIP_WITHOUT_GPU();
  DeviceArray<std::byte> memory(1 << 20);
  cuda::AddNormArgs args;
  args.rows = 1;
  args.columns = args.delta_stride = 96;
  args.peers = PeerSums::Of(2, 4, 2 * 96);
  args.peers.memory.size = 2;
  args.peers.memory.of_rank[0] = memory.data();
  args.way = SumWay::kPull;
  args.delta = args.peers.Addend(1);  // turn is 0
  EXPECT_EQ(cuda::AddNorm(args, nullptr), cudaErrorInvalidValue);
  args.delta = args.peers.Addend(0);
  args.rows = 5;
  EXPECT_EQ(cuda::AddNorm(args, nullptr), cudaErrorInvalidValue);
  args.rows = 4;
  args.columns = 64;
  args.delta_stride = 64;
  EXPECT_EQ(cuda::AddNorm(args, nullptr), cudaErrorInvalidValue);
}

TEST(PeerSumsErrors, MoreRowsThanAnInboxHasAreNotPushed) {
  H2O_SKIP_WITHOUT_GPU();
  DeviceArray<std::byte> memory(1 << 20);
  cuda::AddNormArgs args;
  args.rows = PeerSums::kPushRows + 1;
  args.columns = args.delta_stride = 96;
  args.peers = PeerSums::Of(2, args.rows, 2 * 96);
  args.peers.memory.size = 2;
  args.peers.memory.of_rank[0] = memory.data();
  args.delta = args.peers.Addend(0);
  args.way = SumWay::kPush;
  EXPECT_EQ(cuda::AddNorm(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace h2o
