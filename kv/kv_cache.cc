#include "kv/kv_cache.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace h2o {

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(
    const KvGeometry& geometry, Range heads, int64_t num_pages) {
  if (num_pages < 1 || num_pages > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a KV pool of ", num_pages, " pages of ", geometry.PageBytes(),
        " bytes; it must have at least one and fewer than 2^31"));
  }
  H2O_ASSIGN_OR_RETURN(Buffer memory,
                       Buffer::Allocate(num_pages * geometry.PageBytes()));
  return std::unique_ptr<KvCache>(
      new KvCache(geometry, heads, num_pages, std::move(memory)));
}

KvCache::KvCache(const KvGeometry& geometry, Range heads, int64_t num_pages,
                 Buffer memory)
    : geometry_(geometry),
      heads_(heads),
      num_pages_(num_pages),
      memory_(std::move(memory)),
      pool_{memory_.data(), geometry.page},
      free_(num_pages) {
  // Low pages are handed out first, so that a pool touches only what it needs.
  std::iota(free_.rbegin(), free_.rend(), 0);
}

absl::Status KvCache::Open(uint64_t id, const KvPolicy& policy,
                           int64_t max_stored_tokens) {
  H2O_CHECK(!sequences_.contains(id)) << "sequence " << id << " is open";
  const int64_t needed =
      geometry_.PagesNeeded(policy, max_stored_tokens, heads_);
  if (needed > free_pages()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("sequence ", id, " needs ", needed, " KV pages, ",
                     free_pages(), " of ", num_pages_, " are free"));
  }
  Sequence& sequence = sequences_[id];
  // In ascending order, as they are read.
  sequence.pages.assign(free_.rbegin(), free_.rbegin() + needed);
  free_.resize(free_.size() - needed);

  sequence.heads.reserve(geometry_.num_layers * heads_.size());
  const int32_t* next = sequence.pages.data();
  for (int layer = 0; layer < geometry_.num_layers; ++layer) {
    for (int64_t h = heads_.begin; h < heads_.end; ++h) {
      const KvSlots& slots =
          policy.At(layer, static_cast<int>(h), geometry_.num_heads);
      sequence.heads.push_back({next, slots, 0});
      next += PagesOfHead(slots.Capacity(), max_stored_tokens);
    }
  }
  return absl::OkStatus();
}

void KvCache::Close(uint64_t id) {
  const auto it = sequences_.find(id);
  H2O_CHECK(it != sequences_.end()) << "sequence " << id << " is not open";
  const std::vector<int32_t>& pages = it->second.pages;
  free_.insert(free_.end(), pages.rbegin(), pages.rend());
  sequences_.erase(it);
}

KvHead* KvCache::Heads(uint64_t id, int layer) {
  const auto it = sequences_.find(id);
  H2O_CHECK(it != sequences_.end()) << "sequence " << id << " is not open";
  return it->second.heads.data() + layer * heads_.size();
}

std::vector<int32_t> KvCache::StoredPositions(const KvHead& head) const {
  std::vector<int32_t> positions;
  positions.reserve(head.num_slots);
  for (int32_t slot = 0; slot < head.num_slots; ++slot) {
    const std::byte* page = pool_.Page(head.pages[slot / kPageSlots]);
    positions.push_back(reinterpret_cast<const uint16_t*>(
        page + pool_.layout.PositionsOffset())[slot % kPageSlots]);
  }
  std::sort(positions.begin(), positions.end());
  return positions;
}

}  // namespace h2o
