// Tests the formula of KV memory.
#include "kv/kv_geometry.h"

#include <gtest/gtest.h>

#include <random>

namespace h2o {
namespace {

constexpr KvFormat kFloat32{DType::kFloat32}, kBFloat16{DType::kBFloat16};

TEST(KvPage, BytesAreKeysValuesScoresAndPositions) {
  const KvPageLayout layout{128, kBFloat16};
  EXPECT_EQ(layout.RowBytes(), 256);
  EXPECT_EQ(layout.ValuesOffset(), 8192);
  EXPECT_EQ(layout.ScoresOffset(), 2 * 8192);
  EXPECT_EQ(layout.PositionsOffset(), 2 * 8192 + 32 * 4);
  EXPECT_EQ(layout.TailBytes(), 32 * 4 + 32 * 2);
  EXPECT_EQ(layout.PageBytes(), 2 * 8192 + 256);  // whole lines of 128
}

TEST(KvGeometry, AHeadHoldsItsBudgetOrLess) {
  EXPECT_EQ(PagesOfHead(40, 1000), 2);
  EXPECT_EQ(PagesOfHead(40, 32), 1);
  EXPECT_EQ(PagesOfHead(40, 33), 2);
  EXPECT_EQ(PagesOfHead(1, 1), 1);
  EXPECT_EQ(MaxStoredTokens(512, 512), 1023);
}

TEST(KvGeometry, UniformAndPerHeadBudgetsAgree) {
  const KvGeometry geometry{3, 6, 64, {kFloat32}};
  KvPolicy uniform, each;
  uniform.slots = {SlotsFor(KvPolicyName::kH2o, 70)};
  each.slots.assign(18, uniform.slots[0]);
  for (Range heads : {Range{0, 6}, {0, 2}, {5, 6}}) {
    EXPECT_EQ(geometry.SlabsNeeded(uniform, 500, heads),
              geometry.SlabsNeeded(each, 500, heads));
    EXPECT_EQ(geometry.SlabsNeeded(uniform, 500, heads), 3 * heads.size() * 3);
  }
  each.slots[0] = SlotsFor(KvPolicyName::kH2o, 200);  // layer 0, head 0
  EXPECT_EQ(geometry.SlabsNeeded(each, 500, {0, 2}), 18 + 4);
  EXPECT_EQ(geometry.SlabsNeeded(each, 500, {1, 2}), 9);
}

TEST(KvGeometry, ASlabIsAPageIfAllPagesHaveOneSize) {
  const KvGeometry one{2, 2, 64, {kBFloat16}};
  EXPECT_EQ(one.SlabBytes(), 2 * 4096 + 256);
  EXPECT_STREQ(one.SlabsName(), "pages");
  // Two formats of one size are no reason for larger slabs.
  const KvFormat fp16{DType::kFloat16};
  const KvGeometry two{2, 2, 64, {kBFloat16, fp16, fp16, kBFloat16}};
  EXPECT_EQ(two.SlabBytes(), one.SlabBytes());
  EXPECT_EQ(two.FormatOf(1, 0), fp16);
  KvPolicy policy;
  policy.slots = {SlotsFor(KvPolicyName::kFull, 100)};
  EXPECT_EQ(two.SlabsNeeded(policy, 100, {0, 2}),
            one.SlabsNeeded(policy, 100, {0, 2}));
  const KvGeometry mixed{2, 2, 64, {kBFloat16, fp16, fp16, kFloat32}};
  EXPECT_EQ(mixed.SlabBytes(), kSlabPages * (2 * 8192 + 256));
  EXPECT_STREQ(mixed.SlabsName(), "slabs");
}

TEST(SlabFill, LaysPagesOneBehindTheOtherAndNeverOverTheEnd) {
  SlabFill fill(1000);
  EXPECT_EQ(fill.slabs(), 0);
  EXPECT_EQ(fill.Add(400), 0);
  EXPECT_EQ(fill.Add(400), 400);
  EXPECT_EQ(fill.Add(400), 0);
  EXPECT_EQ(fill.slabs(), 2);
  EXPECT_EQ(fill.Add(600), 400);
  EXPECT_EQ(fill.slabs(), 2);
  EXPECT_EQ(fill.Add(1000), 0);
  EXPECT_EQ(fill.Add(128), 0);
  EXPECT_EQ(fill.slabs(), 4);
}

TEST(SlabFill, ManyAtOnceEqualOneByOne) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const int64_t slab = 128 * (1 + random() % 50);
    SlabFill one(slab), many(slab);
    for (int i = 0; i < 20; ++i) {
      const int64_t page = 128 * (1 + random() % (slab / 128));
      const int64_t count = random() % 30;
      int64_t last = 0;
      for (int64_t n = 0; n < count; ++n) last = one.Add(page);
      many.AddMany(count, page);
      ASSERT_EQ(many.slabs(), one.slabs());
      ASSERT_LE(last + page, slab);
    }
  }
}

}  // namespace
}  // namespace h2o
