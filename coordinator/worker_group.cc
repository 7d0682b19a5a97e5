// Adds up the memory of a group's ranks, and checks that the ranks are alike.
#include "coordinator/worker_group.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace h2o {

MemoryPlan GroupInfo::memory() const {
  MemoryPlan sum;
  for (const RankInfo& rank : ranks) {
    sum.weights += rank.memory.weights;
    sum.looked_up += rank.memory.looked_up;
    sum.workspace += rank.memory.workspace;
    sum.kv_pool += rank.memory.kv_pool;
  }
  return sum;
}

absl::Status CheckAlike(const RankInfo& rank0, const RankInfo& other) {
  if (other.fingerprint != rank0.fingerprint) {
    return absl::FailedPreconditionError(
        absl::StrCat("another model: its fingerprint is ", other.fingerprint,
                     ", rank 0's is ", rank0.fingerprint));
  }
  if (other.packed_tokens != rank0.packed_tokens) {
    return absl::FailedPreconditionError(
        absl::StrCat("its prefill packs ", other.packed_tokens,
                     " tokens, rank 0's ", rank0.packed_tokens,
                     "; all ranks must run on the same kind of device"));
  }
  if (other.geometry != rank0.geometry) {
    const auto pages = [](const RankInfo& rank) {
      const std::vector<KvFormat>& formats = rank.geometry.formats;
      return absl::StrCat(rank.geometry.SlabBytes(), " bytes of ",
                          formats.size() == 1
                              ? std::string(Name(formats[0].dtype))
                              : absl::StrCat(formats.size(), " formats"));
    };
    return absl::FailedPreconditionError(
        absl::StrCat("its KV ", other.geometry.SlabsName(), " have ",
                     pages(other), ", rank 0's have ", pages(rank0),
                     "; all ranks must keep keys and values "
                     "alike"));
  }
  return absl::OkStatus();
}

}  // namespace h2o
