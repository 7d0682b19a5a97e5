#include "kv/kv_cache.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

int64_t NumHeads(const KvCacheOptions& o) {
  return o.geometry.num_layers * o.heads.size();
}

}  // namespace

int64_t KvCache::TableBytes(const KvCacheOptions& o) {
  const int64_t pages =
      std::min(o.num_pages, NumHeads(o) * CeilDiv(o.max_positions, kPageSlots));
  const int64_t bytes = NumHeads(o) * sizeof(KvHead) + pages * sizeof(int32_t);
  return CeilDiv(bytes, 64) * 64;
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(
    const KvCacheOptions& options, Device* device) {
  const int64_t page_bytes = options.geometry.PageBytes();
  if (options.num_pages < 1 ||
      options.num_pages > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a KV pool of ", options.num_pages, " pages of ", page_bytes,
        " bytes; it must have at least one and fewer than 2^31"));
  }
  H2O_ASSIGN_OR_RETURN(Buffer memory,
                       device->Allocate(options.num_pages * page_bytes));
  H2O_ASSIGN_OR_RETURN(Buffer tables, device->Allocate(options.max_sequences *
                                                       TableBytes(options)));
  return std::unique_ptr<KvCache>(
      new KvCache(options, device, std::move(memory), std::move(tables)));
}

KvCache::KvCache(const KvCacheOptions& options, Device* device, Buffer memory,
                 Buffer tables)
    : options_(options),
      device_(device),
      memory_(std::move(memory)),
      tables_(std::move(tables)),
      pool_{memory_.data(), options.geometry.page},
      free_(options.num_pages),
      free_slots_(options.max_sequences) {
  // Low pages are handed out first, so that a pool touches only what it needs.
  std::iota(free_.rbegin(), free_.rend(), 0);
  std::iota(free_slots_.rbegin(), free_slots_.rend(), 0);
}

absl::Status KvCache::Open(uint64_t id, const KvPolicy& policy,
                           int64_t max_stored_tokens) {
  H2O_CHECK(!sequences_.contains(id)) << "sequence " << id << " is open";
  const KvGeometry& geometry = options_.geometry;
  const int64_t needed =
      geometry.PagesNeeded(policy, max_stored_tokens, options_.heads);
  if (needed > free_pages() || free_slots_.empty()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "sequence ", id, " needs ", needed, " KV pages, ", free_pages(), " of ",
        num_pages(), " are free; ", sequences_.size(), " of ",
        options_.max_sequences, " sequences are open"));
  }
  H2O_CHECK(max_stored_tokens <= options_.max_positions)
      << max_stored_tokens << " tokens of " << options_.max_positions;
  Sequence& sequence = sequences_[id];
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  // In ascending order, as they are read.
  sequence.pages.assign(free_.rbegin(), free_.rbegin() + needed);
  free_.resize(free_.size() - needed);

  std::vector<KvHead> heads;
  heads.reserve(NumHeads(options_));
  KvHead* const table = HeadsOf(sequence.slot);
  int32_t* const numbers =
      reinterpret_cast<int32_t*>(table + NumHeads(options_));
  const int32_t* next = numbers;
  for (int layer = 0; layer < geometry.num_layers; ++layer) {
    for (int64_t h = options_.heads.begin; h < options_.heads.end; ++h) {
      const KvSlots& slots =
          policy.At(layer, static_cast<int>(h), geometry.num_heads);
      heads.push_back({next, slots, 0});
      next += PagesOfHead(slots.Capacity(), max_stored_tokens);
    }
  }
  device_->Upload(heads.data(), heads.size() * sizeof(KvHead), table);
  device_->Upload(sequence.pages.data(), needed * sizeof(int32_t), numbers);
  return absl::OkStatus();
}

void KvCache::Close(uint64_t id) {
  const auto it = sequences_.find(id);
  H2O_CHECK(it != sequences_.end()) << "sequence " << id << " is not open";
  const std::vector<int32_t>& pages = it->second.pages;
  free_.insert(free_.end(), pages.rbegin(), pages.rend());
  free_slots_.push_back(it->second.slot);
  sequences_.erase(it);
}

int KvCache::Slot(uint64_t id) const {
  const auto it = sequences_.find(id);
  H2O_CHECK(it != sequences_.end()) << "sequence " << id << " is not open";
  return it->second.slot;
}

KvHead* KvCache::Heads(uint64_t id) const { return HeadsOf(Slot(id)); }

KvHead* KvCache::HeadsOf(int slot) const {
  return reinterpret_cast<KvHead*>(tables_.data() +
                                   slot * TableBytes(options_));
}

}  // namespace h2o
