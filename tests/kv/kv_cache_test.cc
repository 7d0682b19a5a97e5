#include "kv/kv_cache.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "kernels/cpu/cpu_backend.h"

namespace h2o {
namespace {

const KvGeometry kGeometry{2, 4, {16, DType::kFloat32}};

// A cache on a CPU, which it outlives.
std::unique_ptr<KvCache> MakeCache(Range heads, int64_t num_pages) {
  static const std::unique_ptr<Backend> kDevice = [] {
    CpuBackendOptions options;
    options.head_dim = 16;
    options.max_inputs = 16;
    return NewCpuBackend(options).value();
  }();
  return KvCache::Create({kGeometry, heads, num_pages, 300, 1000},
                         kDevice.get())
      .value();
}

KvPolicy H2o(int capacity) {
  KvPolicy policy;
  policy.name = KvPolicyName::kH2o;
  policy.slots = {SlotsFor(KvPolicyName::kH2o, capacity)};
  return policy;
}

TEST(KvCache, OpenTakesWhatTheFormulaSaysAndCloseGivesItBack) {
  const auto cache = MakeCache({1, 3}, 20);
  ASSERT_TRUE(cache->Open(7, H2o(40), 100).ok());
  EXPECT_EQ(cache->free_pages(), 20 - 2 * 2 * 2);
  ASSERT_TRUE(cache->Open(8, H2o(40), 20).ok());
  EXPECT_EQ(cache->free_pages(), 20 - 8 - 4);
  const absl::Status full = cache->Open(9, H2o(80), 1000);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache->free_pages(), 8);
  cache->Close(7);
  EXPECT_EQ(cache->free_pages(), 16);
  EXPECT_TRUE(cache->Open(9, H2o(80), 1000).ok());
}

TEST(KvCache, PagesAreNeverShared) {
  const auto cache = MakeCache({0, 4}, 400);
  std::mt19937 random(1);
  std::set<uint64_t> open;
  uint64_t next = 1;
  for (int round = 0; round < 500; ++round) {
    if (random() % 2 == 0 || open.empty()) {
      const int capacity = 1 + random() % 100, stored = 1 + random() % 200;
      if (cache->Open(next, H2o(capacity), stored).ok()) open.insert(next);
      ++next;
    } else {
      const auto it = std::next(open.begin(), random() % open.size());
      cache->Close(*it);
      open.erase(it);
    }
  }
  // Every head's first page is its own.
  std::set<int32_t> pages;
  int64_t held = 0;
  for (uint64_t id : open) {
    for (int layer = 0; layer < 2; ++layer) {
      const KvHead* heads = cache->Heads(id) + layer * 4;
      for (int h = 0; h < 4; ++h) {
        pages.insert(heads[h].pages[0]);
        ++held;
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(pages.size()), held);
  for (uint64_t id : open) cache->Close(id);
  EXPECT_EQ(cache->free_pages(), 400);
}

TEST(KvCache, BudgetsMayDifferPerLayerAndHead) {
  const auto cache = MakeCache({0, 4}, 100);
  KvPolicy policy;
  for (int i = 0; i < 8; ++i) {
    policy.slots.push_back(SlotsFor(KvPolicyName::kH2o, 10 + 30 * i));
  }
  ASSERT_TRUE(cache->Open(1, policy, 1000).ok());
  EXPECT_EQ(cache->free_pages(),
            100 - kGeometry.PagesNeeded(policy, 1000, {0, 4}));
  EXPECT_EQ(cache->Heads(1)[4 + 2].slots.Capacity(), 190);
}

TEST(KvCache, RefusesASequenceMoreThanItHasTablesFor) {
  CpuBackendOptions options;
  options.head_dim = 16;
  options.max_inputs = 16;
  const auto device = NewCpuBackend(options).value();
  const auto cache =
      KvCache::Create({kGeometry, {0, 4}, 100, 2, 64}, device.get()).value();
  ASSERT_TRUE(cache->Open(1, H2o(32), 10).ok());
  ASSERT_TRUE(cache->Open(2, H2o(32), 10).ok());
  EXPECT_NE(cache->Slot(1), cache->Slot(2));
  EXPECT_EQ(cache->Open(3, H2o(32), 10).code(),
            absl::StatusCode::kResourceExhausted);
  cache->Close(1);
  EXPECT_TRUE(cache->Open(3, H2o(32), 10).ok());
}

TEST(KvCache, RefusesAPoolThatCannotBe) {
  CpuBackendOptions options;
  options.head_dim = 16;
  options.max_inputs = 16;
  const auto device = NewCpuBackend(options).value();
  for (int64_t pages : {int64_t{0}, int64_t{1} << 40}) {
    EXPECT_EQ(KvCache::Create({kGeometry, {0, 4}, pages, 1, 64}, device.get())
                  .status()
                  .code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace h2o
