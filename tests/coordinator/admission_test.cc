// Tests admission: the charge of each rank, and yes if and only if every rank
// has the memory free.
#include "coordinator/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "kernels/cpu/cpu_backend.h"
#include "kv/kv_cache.h"
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
  const SlabCharge charge = admission.ChargeOf(H2o(40), 500);
  EXPECT_TRUE(admission.CanEverFit(charge).ok());
  ASSERT_TRUE(admission.Fits(charge));
  admission.Charge(charge);
  EXPECT_EQ(admission.HeldSlabs(), 36);
  EXPECT_EQ(admission.FreeSlabs(), 5);
  // Three ranks have room for a second one, the last has not.
  EXPECT_FALSE(admission.Fits(charge));
  EXPECT_TRUE(admission.Fits(admission.ChargeOf(H2o(32), 500)));
  admission.Release(charge);
  EXPECT_EQ(admission.HeldSlabs(), 0);
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

// A group of 4 ranks whose heads differ in the sizes of their pages.  Sequences
// of random lengths and budgets come and go in any order; between two plans the
// coordinator frees and charges as it happens, while the ranks close before
// they open.  What admission admits every rank can open, and what it refuses
// some rank cannot.
TEST(Admission, IsExactForPagesOfSeveralSizes) {
  constexpr int kRanks = 4, kPositions = 300, kMaxSequences = 500;
  GroupInfo info = Info({20, 20, 10, 12});
  std::mt19937 random(1);
  KvGeometry geometry = info.geometry();
  geometry.formats.clear();
  for (int i = 0; i < geometry.num_layers * geometry.num_heads; ++i) {
    geometry.formats.push_back(
        {random() % 2 == 0 ? DType::kFloat32 : DType::kBFloat16});
  }
  for (RankInfo& rank : info.ranks) rank.geometry = geometry;
  Admission admission(info);
  CpuBackendOptions device_options;
  device_options.head_dim = geometry.head_dim;
  device_options.max_inputs = 16;
  const auto device = NewCpuBackend(device_options).value();
  std::vector<std::unique_ptr<KvCache>> caches;
  for (int rank = 0; rank < kRanks; ++rank) {
    caches.push_back(
        KvCache::Create({geometry, info.config().Shard(rank, kRanks).kv_heads,
                         info.ranks[rank].num_slabs, kMaxSequences, kPositions},
                        device.get())
            .value());
  }
  struct Sequence {
    KvPolicy policy;
    int64_t stored = 0;
    SlabCharge charge;
  };
  std::map<uint64_t, Sequence> running;
  uint64_t next_id = 1;
  int admitted = 0, refused = 0;
  for (int plan = 0; plan < 2000; ++plan) {
    std::vector<uint64_t> retire;
    std::map<uint64_t, Sequence> admit;
    for (int event = 0; event < 4; ++event) {
      if (random() % 3 == 0 && !running.empty()) {
        const auto it = std::next(running.begin(), random() % running.size());
        admission.Release(it->second.charge);
        retire.push_back(it->first);
        running.erase(it);
        continue;
      }
      Sequence sequence;
      sequence.stored = 1 + static_cast<int64_t>(random() % kPositions);
      for (size_t i = 0; i < geometry.formats.size(); ++i) {
        sequence.policy.slots.push_back(
            SlotsFor(KvPolicyName::kH2o, 1 + random() % kPositions));
      }
      if (random() % 2 == 0) sequence.policy.slots.resize(1);
      sequence.charge = admission.ChargeOf(sequence.policy, sequence.stored);
      if (!admission.Fits(sequence.charge)) {
        ++refused;
        continue;
      }
      admission.Charge(sequence.charge);
      admit[next_id++] = std::move(sequence);
    }
    for (int rank = 0; rank < kRanks; ++rank) {
      for (uint64_t id : retire) caches[rank]->Close(id);
      for (const auto& [id, sequence] : admit) {
        ASSERT_TRUE(
            caches[rank]->Open(id, sequence.policy, sequence.stored).ok())
            << "sequence " << id << " on rank " << rank;
      }
    }
    admitted += static_cast<int>(admit.size());
    running.merge(admit);
    // The ledger is what the ranks have.
    const SlabCharge any = admission.ChargeOf(H2o(1 + random() % 300), 300);
    bool fits = true;
    for (int rank = 0; rank < kRanks; ++rank) {
      fits = fits && any[rank] <= caches[rank]->free_slabs();
    }
    ASSERT_EQ(admission.Fits(any), fits);
  }
  EXPECT_GT(admitted, 1000);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace h2o
