#include "kv/kv_geometry.h"

#include <gtest/gtest.h>

namespace h2o {
namespace {

TEST(KvPage, BytesAreKeysValuesScoresAndPositions) {
  const KvPageLayout layout{128, DType::kBFloat16};
  EXPECT_EQ(layout.RunBytes(), 8192);
  EXPECT_EQ(layout.UsedBytes(), 2 * 8192 + 32 * 4 + 32 * 2);
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
  const KvGeometry geometry{3, 6, {64, DType::kFloat32}};
  KvPolicy uniform, each;
  uniform.slots = {SlotsFor(KvPolicyName::kH2o, 70)};
  each.slots.assign(18, uniform.slots[0]);
  for (Range heads : {Range{0, 6}, {0, 2}, {5, 6}}) {
    EXPECT_EQ(geometry.PagesNeeded(uniform, 500, heads),
              geometry.PagesNeeded(each, 500, heads));
    EXPECT_EQ(geometry.PagesNeeded(uniform, 500, heads), 3 * heads.size() * 3);
  }
  each.slots[0] = SlotsFor(KvPolicyName::kH2o, 200);  // layer 0, head 0
  EXPECT_EQ(geometry.PagesNeeded(each, 500, {0, 2}), 18 + 4);
  EXPECT_EQ(geometry.PagesNeeded(each, 500, {1, 2}), 9);
}

}  // namespace
}  // namespace h2o
