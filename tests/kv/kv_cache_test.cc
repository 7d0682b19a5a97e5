// Tests the KV cache: opening takes what the formula says, closing gives it back,
// nothing is shared.
#include "kv/kv_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "kernels/cpu/cpu_backend.h"

namespace h2o {
namespace {

const KvGeometry kGeometry{2, 4, 16, {{DType::kFloat32}}};

// The device of all caches, which outlives them.
Device* Cpu() {
  static const std::unique_ptr<Backend> kDevice = [] {
    CpuBackendOptions options;
    options.head_dim = 16;
    options.max_inputs = 16;
    return NewCpuBackend(options).value();
  }();
  return kDevice.get();
}

std::unique_ptr<KvCache> MakeCache(Range heads, int64_t num_slabs) {
  return KvCache::Create({kGeometry, heads, num_slabs, 300, 1000}, Cpu())
      .value();
}

KvPolicy H2o(int capacity) {
  KvPolicy policy;
  policy.name = KvPolicyName::kH2o;
  policy.slots = {SlotsFor(KvPolicyName::kH2o, capacity)};
  return policy;
}

// Budgets of their own for all heads of kGeometry, up to `most` slots.
KvPolicy RandomBudgets(std::mt19937& random, int most) {
  KvPolicy policy;
  for (int i = 0; i < kGeometry.num_layers * kGeometry.num_heads; ++i) {
    policy.slots.push_back(
        SlotsFor(KvPolicyName::kH2o, 1 + static_cast<int>(random() % most)));
  }
  return policy;
}

// Where the pages of an open sequence lie: the first byte of each and its size.
std::map<int64_t, int64_t> PagesOf(const KvCache& cache, uint64_t id,
                                   int64_t max_stored_tokens) {
  std::map<int64_t, int64_t> pages;
  const int64_t num_heads = cache.geometry().num_layers * cache.heads().size();
  for (int64_t h = 0; h < num_heads; ++h) {
    const KvHead& head = cache.Heads(id)[h];
    const int64_t count = PagesOfHead(head.slots.Capacity(), max_stored_tokens);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t at =
          cache.pool().PageOf(head, static_cast<int32_t>(n * kPageSlots)) -
          cache.pool().data;
      EXPECT_TRUE(
          pages.emplace(at, cache.pool().Layout(head).PageBytes()).second);
    }
  }
  return pages;
}

TEST(KvCache, OpenTakesWhatTheFormulaSaysAndCloseGivesItBack) {
  const auto cache = MakeCache({1, 3}, 20);
  ASSERT_TRUE(cache->Open(7, H2o(40), 100).ok());
  EXPECT_EQ(cache->free_slabs(), 20 - 2 * 2 * 2);
  ASSERT_TRUE(cache->Open(8, H2o(40), 20).ok());
  EXPECT_EQ(cache->free_slabs(), 20 - 8 - 4);
  const absl::Status full = cache->Open(9, H2o(80), 1000);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache->free_slabs(), 8);
  cache->Close(7);
  EXPECT_EQ(cache->free_slabs(), 16);
  EXPECT_TRUE(cache->Open(9, H2o(80), 1000).ok());
}

// With one size of pages a sequence takes the lowest free ones, in order.
TEST(KvCache, PagesOfOneSizeAreHandedOutInOrder) {
  const auto cache = MakeCache({0, 4}, 100);
  const int64_t bytes = kGeometry.SlabBytes();
  ASSERT_TRUE(cache->Open(1, H2o(40), 100).ok());
  ASSERT_TRUE(cache->Open(2, H2o(32), 100).ok());
  const std::map<int64_t, int64_t> pages = PagesOf(*cache, 2, 100);
  EXPECT_EQ(pages.begin()->first, 16 * bytes);
  EXPECT_EQ(pages.rbegin()->first, 23 * bytes);
  const KvHead* heads = cache->Heads(2);
  for (int h = 0; h < 8; ++h) {
    EXPECT_EQ(cache->pool().PageOf(heads[h], 0) - cache->pool().data,
              (16 + h) * bytes);
  }
  cache->Close(1);
  ASSERT_TRUE(cache->Open(3, H2o(32), 100).ok());
  EXPECT_EQ(PagesOf(*cache, 3, 100).begin()->first, 0);
}

// Opens and closes sequences of random budgets in random order, in a pool of
// pages of 34 and of 18 lines.  A sequence is opened if and only if the formula
// says that there is room, no two pages overlap, and little is wasted.
TEST(KvCache, PagesOfSeveralSizesDoNotFragmentThePool) {
  KvGeometry geometry = kGeometry;
  geometry.formats.clear();
  for (int i = 0; i < geometry.num_layers * geometry.num_heads; ++i) {
    geometry.formats.push_back(
        {i % 3 == 0 ? DType::kFloat32 : DType::kBFloat16});
  }
  std::mt19937 random(1);
  const Range heads{1, 4};
  constexpr int64_t kSlabs = 60;
  const auto cache =
      KvCache::Create({geometry, heads, kSlabs, 1000, 1000}, Cpu()).value();
  struct Open {
    int64_t slabs = 0;
    std::map<int64_t, int64_t> pages;
  };
  std::map<uint64_t, Open> open;
  int64_t held = 0;
  int refused = 0;
  for (uint64_t id = 1; id <= 5000; ++id) {
    if (random() % 5 < 2 && !open.empty()) {
      const auto it = std::next(open.begin(), random() % open.size());
      cache->Close(it->first);
      held -= it->second.slabs;
      open.erase(it);
    }
    const int64_t stored = 1 + static_cast<int64_t>(random() % 1000);
    const KvPolicy policy =
        random() % 2 == 0 ? H2o(1 + static_cast<int>(random() % stored))
                          : RandomBudgets(random, static_cast<int>(stored));
    const int64_t slabs = geometry.SlabsNeeded(policy, stored, heads);
    const bool fits = held + slabs <= kSlabs;
    ASSERT_EQ(cache->Open(id, policy, stored).ok(), fits) << "sequence " << id;
    if (!fits) {
      ++refused;
      continue;
    }
    held += slabs;
    ASSERT_EQ(cache->free_slabs(), kSlabs - held);
    open[id] = {slabs, PagesOf(*cache, id, stored)};
  }
  EXPECT_GT(refused, 500);
  // All pages, by where they begin.
  int64_t end = 0, used = 0;
  std::map<int64_t, int64_t> all;
  for (const auto& [id, sequence] : open) {
    all.insert(sequence.pages.begin(), sequence.pages.end());
  }
  for (const auto& [at, bytes] : all) {
    EXPECT_GE(at, end);
    end = at + bytes;
    used += bytes;
  }
  EXPECT_LE(end, kSlabs * geometry.SlabBytes());
  // Of each sequence all slabs but the last are full, up to less than a page.
  const int64_t slab = geometry.SlabBytes();
  EXPECT_GT(used, (held - static_cast<int64_t>(open.size())) *
                      (slab - slab / kSlabPages));
}

TEST(KvCache, BudgetsMayDifferPerLayerAndHead) {
  const auto cache = MakeCache({0, 4}, 100);
  KvPolicy policy;
  for (int i = 0; i < 8; ++i) {
    policy.slots.push_back(SlotsFor(KvPolicyName::kH2o, 10 + 30 * i));
  }
  ASSERT_TRUE(cache->Open(1, policy, 1000).ok());
  EXPECT_EQ(cache->free_slabs(),
            100 - kGeometry.SlabsNeeded(policy, 1000, {0, 4}));
  EXPECT_EQ(cache->Heads(1)[4 + 2].slots.Capacity(), 190);
}

TEST(KvCache, RefusesASequenceMoreThanItHasTablesFor) {
  const auto cache =
      KvCache::Create({kGeometry, {0, 4}, 100, 2, 64}, Cpu()).value();
  ASSERT_TRUE(cache->Open(1, H2o(32), 10).ok());
  ASSERT_TRUE(cache->Open(2, H2o(32), 10).ok());
  EXPECT_NE(cache->Seat(1), cache->Seat(2));
  EXPECT_EQ(cache->Open(3, H2o(32), 10).code(),
            absl::StatusCode::kResourceExhausted);
  cache->Close(1);
  EXPECT_TRUE(cache->Open(3, H2o(32), 10).ok());
}

TEST(KvCache, RefusesAPoolThatCannotBe) {
  for (int64_t slabs : {int64_t{0}, kMaxPoolBytes / kGeometry.SlabBytes() + 1,
                        int64_t{1} << 50}) {
    EXPECT_EQ(KvCache::Create({kGeometry, {0, 4}, slabs, 1, 64}, Cpu())
                  .status()
                  .code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace h2o
