// What ranks have claimed and not touched is not free for others.
#include "base/host_memory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kQuarter = 250 * 1000 * kMiB;
constexpr int64_t kHost = 4 * kQuarter;  // before anybody claims
constexpr int64_t kReserve = 64 * kMiB;  // of PoolBytes, for each rank
// What the test itself touches meanwhile.
constexpr int64_t kNoise = 20 * kMiB;

int64_t Host(const std::vector<MemoryCharge>& charges) {
  int64_t left = kHost;
  for (const MemoryCharge& charge : charges) left -= charge.bytes;
  return left;
}

class HostMemories : public ::testing::Test {
 protected:
  std::unique_ptr<HostMemory> Rank(const std::string& group) const {
    return std::make_unique<HostMemory>(group, folder_, Host);
  }
  size_t NumFiles() const {
    return std::distance(std::filesystem::directory_iterator(folder_), {});
  }

  const TempDirectory directory_;
  const std::string folder_ = directory_.path();
};

TEST_F(HostMemories, ClaimsAreNotFree) {
  const auto memory = Rank("a");
  EXPECT_EQ(memory->FreeBytes(), kHost);
  memory->Claim(kQuarter);
  {
    const auto other = Rank("b");
    EXPECT_NEAR(other->FreeBytes(), 3 * kQuarter, kNoise);
    other->StartPool();
    other->Claim(kQuarter);
    EXPECT_NEAR(memory->FreeBytes(), 2 * kQuarter, kNoise);
  }
  EXPECT_NEAR(memory->FreeBytes(), 3 * kQuarter, kNoise);
  EXPECT_EQ(NumFiles(), 1u);
}

TEST_F(HostMemories, WhatIsTouchedTheSystemCounts) {
  const auto memory = Rank("a");
  memory->Claim(2 * kQuarter);
  const int64_t before = memory->FreeBytes();
  const std::string touched(200 * kMiB, 'x');
  // Sanitizers touch memory of their own beside it.
  EXPECT_GE(memory->FreeBytes() - before, 200 * kMiB);
  EXPECT_EQ(touched.back(), 'x');
}

TEST_F(HostMemories, AProcessThatIsGoneClaimsNothing) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto memory = Rank("a");
    memory->Claim(2 * kQuarter);
    if (write(ready[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const auto memory = Rank("b");
  EXPECT_NEAR(memory->FreeBytes(), 2 * kQuarter, kNoise);
  EXPECT_EQ(NumFiles(), 2u);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(memory->FreeBytes(), kHost);
  EXPECT_EQ(NumFiles(), 1u);
}

// Ranks that load one after the other get pools of one size, and all together
// no more than the share.
TEST_F(HostMemories, RanksOfAGroupShareAlike) {
  const int64_t weights = kHost / 16;
  const auto first = Rank("g"), second = Rank("g");
  first->Claim(weights);  // the second one has not loaded yet
  first->StartPool();
  const int64_t pool = first->PoolBytes(0.8, 2);
  EXPECT_NEAR(pool, 0.4 * (kHost - 2 * weights - 2 * kReserve), kNoise);
  first->Claim(pool);
  second->Claim(weights);
  second->StartPool();
  EXPECT_NEAR(second->PoolBytes(0.8, 2), pool, kNoise);
  second->Claim(pool);
  // A group of its own shares out what is left.
  const auto other = Rank("h");
  other->Claim(weights);
  EXPECT_NEAR(other->PoolBytes(0.5, 1),
              0.5 * (kHost - 3 * weights - 2 * pool - kReserve), kNoise);
  // Nothing is left for a rank that comes too late.
  other->Claim(2 * kHost);
  EXPECT_EQ(other->PoolBytes(1, 1), 0);
}

TEST_F(HostMemories, OneMeasuresAtATime) {
  std::optional<HostMemory::Turn> turn(folder_);
  std::atomic<bool> second_has_it = false;
  std::thread second([&] {
    const HostMemory::Turn waits(folder_);
    second_has_it = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(second_has_it);
  turn.reset();
  second.join();
  EXPECT_TRUE(second_has_it);
}

TEST_F(HostMemories, WithoutAFolderTheSystemsNumbersCount) {
  HostMemory memory("a", "/no/such/folder", Host);
  memory.Claim(2 * kQuarter);
  EXPECT_EQ(memory.FreeBytes(), kHost);
  const HostMemory::Turn turn("/no/such/folder");
}

TEST_F(HostMemories, GarbageIsNoClaim) {
  std::ofstream(folder_ + "/h2oserve-memory-1-garbage") << "a b c d";
  EXPECT_EQ(Rank("a")->FreeBytes(), kHost);
}

TEST(FreeHostBytes, ReadsTheSystem) {
  EXPECT_GT(FreeHostBytes({}), kMiB);
  EXPECT_EQ(FreeHostBytes({{"", kHost}}), 1);  // 0 is: unknown
}

}  // namespace
}  // namespace h2o
