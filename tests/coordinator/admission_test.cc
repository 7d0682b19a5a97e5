#include "coordinator/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/loaded_rank.h"
#include "tests/worker/tiny_model.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

GroupInfo Info(const std::vector<int64_t>& pages) {
  GroupInfo info;
  for (int64_t n : pages) info.ranks.push_back(LoadedRank(TinyConfig(), n));
  return info;
}

KvPolicy H2o(int capacity) {
  KvPolicy policy;
  policy.slots = {SlotsFor(KvPolicyName::kH2o, capacity)};
  return policy;
}

TEST(Admission, ChargesEachRankItsHeads) {
  const Admission admission(Info({100, 100, 100, 100}));
  // 6 heads over 4 ranks: 2, 2, 1, 1; 3 layers; 40 slots are 2 pages.
  EXPECT_THAT(admission.ChargeOf(H2o(40), 500), ElementsAre(12, 12, 6, 6));
  EXPECT_THAT(admission.ChargeOf(H2o(40), 20), ElementsAre(6, 6, 3, 3));
}

TEST(Admission, SaysYesIfAndOnlyIfEveryRankHasThePages) {
  Admission admission(Info({24, 30, 12, 11}));
  const PageCharge charge = admission.ChargeOf(H2o(40), 500);
  EXPECT_TRUE(admission.CanEverFit(charge).ok());
  ASSERT_TRUE(admission.Fits(charge));
  admission.Charge(charge);
  EXPECT_EQ(admission.HeldPages(), 36);
  EXPECT_EQ(admission.FreePages(), 5);
  // Three ranks have room for a second one, the last has not.
  EXPECT_FALSE(admission.Fits(charge));
  EXPECT_TRUE(admission.Fits(admission.ChargeOf(H2o(32), 500)));
  admission.Release(charge);
  EXPECT_EQ(admission.HeldPages(), 0);
  EXPECT_TRUE(admission.Fits(charge));
}

TEST(Admission, WhatCanNeverFitIsRefusedWithTheArithmetic) {
  const Admission admission(Info({24, 24, 12, 5}));
  const absl::Status status =
      admission.CanEverFit(admission.ChargeOf(H2o(40), 500));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("needs 6 KV pages on rank 3"));
  EXPECT_THAT(status.message(), HasSubstr("has 5"));
}

}  // namespace
}  // namespace h2o
