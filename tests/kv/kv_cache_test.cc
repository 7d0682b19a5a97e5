#include "kv/kv_cache.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace h2o {
namespace {

const KvGeometry kGeometry{2, 4, {16, DType::kFloat32}};

KvPolicy H2o(int capacity) {
  KvPolicy policy;
  policy.name = KvPolicyName::kH2o;
  policy.slots = {SlotsFor(KvPolicyName::kH2o, capacity)};
  return policy;
}

TEST(KvCache, OpenTakesWhatTheFormulaSaysAndCloseGivesItBack) {
  const auto cache = KvCache::Create(kGeometry, {1, 3}, 20).value();
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
  const auto cache = KvCache::Create(kGeometry, {0, 4}, 400).value();
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
      const KvHead* heads = cache->Heads(id, layer);
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
  const auto cache = KvCache::Create(kGeometry, {0, 4}, 100).value();
  KvPolicy policy;
  for (int i = 0; i < 8; ++i) {
    policy.slots.push_back(SlotsFor(KvPolicyName::kH2o, 10 + 30 * i));
  }
  ASSERT_TRUE(cache->Open(1, policy, 1000).ok());
  EXPECT_EQ(cache->free_pages(),
            100 - kGeometry.PagesNeeded(policy, 1000, {0, 4}));
  EXPECT_EQ(cache->Heads(1, 1)[2].slots.Capacity(), 190);
}

TEST(KvCache, RefusesAPoolThatCannotBe) {
  EXPECT_EQ(KvCache::Create(kGeometry, {0, 4}, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      KvCache::Create(kGeometry, {0, 4}, int64_t{1} << 40).status().code(),
      absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace h2o
