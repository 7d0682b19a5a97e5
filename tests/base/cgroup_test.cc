// Control groups of both versions, as files in a folder of the test's own.
#include "base/cgroup.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace h2o {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

class Cgroup : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = root_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  CgroupLimits Read(const std::vector<MemoryCharge>& charges = {}) const {
    return ReadCgroupLimits(charges, root_ / "self", root_);
  }

  const std::filesystem::path root_ =
      std::filesystem::path(::testing::TempDir()) /
      ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(Cgroup, WithoutLimitsNothingIsLimited) {
  EXPECT_EQ(Read().memory_left, kUnlimited);
  Write("self", "0::/user\n");
  Write("user/memory.max", "max\n");
  Write("user/memory.current", "1000\n");
  Write("user/cpu.max", "max 100000\n");
  EXPECT_EQ(Read().memory_left, kUnlimited);
  EXPECT_TRUE(std::isinf(Read().cores));
}

TEST_F(Cgroup, CachedFilesAreFree) {
  Write("self", "0::/pod\n");
  Write("pod/memory.max", "1000\n");
  Write("pod/memory.current", "700\n");
  Write("pod/memory.stat", "anon 400\ninactive_file 200\nactive_file 100\n");
  EXPECT_EQ(Read().memory_left, 600);
}

TEST_F(Cgroup, AParentMayAllowLess) {
  Write("self", "0::/job/step\n");
  Write("job/step/memory.max", "5000\n");
  Write("job/step/memory.current", "100\n");
  Write("job/memory.max", "2000\n");
  Write("job/memory.current", "1500\n");
  Write("job/step/cpu.max", "400000 100000\n");
  Write("job/cpu.max", "150000 100000\n");
  EXPECT_EQ(Read().memory_left, 500);
  EXPECT_DOUBLE_EQ(Read().cores, 1.5);
}

// A container of its own sees its group at the root, by whatever path.
TEST_F(Cgroup, TheRootCounts) {
  Write("self", "0::/elsewhere/on/the/host\n");
  Write("memory.max", "100\n");
  Write("memory.current", "150\n");
  EXPECT_EQ(Read().memory_left, 0);
}

TEST_F(Cgroup, VersionOne) {
  Write("self", "9:memory:/pod\n4:cpu,cpuacct:/pod\n0::/\n");
  Write("memory/pod/memory.limit_in_bytes", "1000\n");
  Write("memory/pod/memory.usage_in_bytes", "700\n");
  Write("memory/pod/memory.stat",
        "total_inactive_file 50\ntotal_active_file 10\n");
  Write("memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("memory/memory.usage_in_bytes", "700\n");
  Write("cpu,cpuacct/pod/cpu.cfs_quota_us", "250000\n");
  Write("cpu,cpuacct/pod/cpu.cfs_period_us", "100000\n");
  Write("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  Write("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Read().memory_left, 360);
  EXPECT_DOUBLE_EQ(Read().cores, 2.5);
}

// Memory that is claimed and not touched counts where its process is.
TEST_F(Cgroup, ChargesCountInTheirGroups) {
  Write("self", "0::/job/step\n");
  Write("job/step/memory.max", "1000\n");
  Write("job/step/memory.current", "100\n");
  Write("job/memory.max", "2000\n");
  Write("job/memory.current", "100\n");
  EXPECT_EQ(
      Read({{"0::/job/step\n", 300}, {"0::/job/step/x\n", 50}}).memory_left,
      550);
  EXPECT_EQ(Read({{"0::/job/steps\n", 1500}}).memory_left, 400);
  EXPECT_EQ(Read({{"0::/other\n", 1500}, {"", 1500}}).memory_left, 900);
  Write("self", "9:memory:/pod\n0::/\n");
  Write("memory/pod/memory.limit_in_bytes", "1000\n");
  Write("memory/pod/memory.usage_in_bytes", "700\n");
  EXPECT_EQ(
      Read({{"9:memory:/pod\n0::/\n", 200}, {"9:memory:/\n", 200}}).memory_left,
      100);
}

TEST_F(Cgroup, GarbageLimitsNothing) {
  Write("self", "0::/a\nx\n:::::\n1:memory:b\n");
  Write("a/memory.max", "lots\n");
  Write("a/memory.current", "\n");
  Write("a/cpu.max", "1\n");
  EXPECT_EQ(Read().memory_left, kUnlimited);
  EXPECT_TRUE(std::isinf(Read().cores));
}

}  // namespace
}  // namespace h2o
