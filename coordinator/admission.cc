// The ledger of KV memory promised on each rank of a group.
#include "coordinator/admission.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "api/refusal.h"
#include "base/check.h"

namespace h2o {

int64_t SumOf(const SlabCharge& charge) {
  return std::accumulate(charge.begin(), charge.end(), int64_t{0});
}

Admission::Admission(const GroupInfo& info)
    : geometry_(info.geometry()), config_(info.config()), held_(info.tp()) {
  for (const RankInfo& rank : info.ranks) num_slabs_.push_back(rank.num_slabs);
}

SlabCharge Admission::ChargeOf(const KvPolicy& policy,
                               int64_t max_stored_tokens) const {
  const int size = static_cast<int>(num_slabs_.size());
  SlabCharge charge(size);
  for (int rank = 0; rank < size; ++rank) {
    charge[rank] = geometry_.SlabsNeeded(policy, max_stored_tokens,
                                         config_.Shard(rank, size).kv_heads);
  }
  return charge;
}

absl::Status Admission::CanEverFit(const SlabCharge& charge) const {
  for (size_t rank = 0; rank < charge.size(); ++rank) {
    if (charge[rank] <= num_slabs_[rank]) continue;
    return NeverFitting(absl::InvalidArgumentError(absl::StrCat(
        "the request can never fit: it needs ", charge[rank], " KV ",
        geometry_.SlabsName(), " on rank ", rank, " (",
        charge[rank] * geometry_.SlabBytes(), " bytes), whose pool has ",
        num_slabs_[rank], " (", num_slabs_[rank] * geometry_.SlabBytes(),
        " bytes); ask for fewer tokens or a smaller kv budget")));
  }
  return absl::OkStatus();
}

bool Admission::Fits(const SlabCharge& charge) const {
  for (size_t rank = 0; rank < charge.size(); ++rank) {
    if (held_[rank] + charge[rank] > num_slabs_[rank]) return false;
  }
  return true;
}

void Admission::Charge(const SlabCharge& charge) {
  H2O_CHECK(Fits(charge)) << "charged more than is free";
  for (size_t rank = 0; rank < charge.size(); ++rank) {
    held_[rank] += charge[rank];
  }
}

void Admission::Release(const SlabCharge& charge) {
  for (size_t rank = 0; rank < charge.size(); ++rank) {
    held_[rank] -= charge[rank];
    H2O_CHECK(held_[rank] >= 0) << "released more than was charged";
  }
}

int64_t Admission::FreeSlabs() const {
  int64_t least = num_slabs_[0] - held_[0];
  for (size_t rank = 1; rank < held_.size(); ++rank) {
    least = std::min(least, num_slabs_[rank] - held_[rank]);
  }
  return least;
}

int64_t Admission::HeldSlabs() const { return SumOf(held_); }

int64_t Admission::TotalSlabs() const { return SumOf(num_slabs_); }

}  // namespace h2o
