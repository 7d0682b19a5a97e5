// Hands out slabs to sequences and writes their page tables.
#include "kv/kv_cache.h"

#include <algorithm>
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
  const int64_t pages_of_pool =
      o.num_slabs * o.geometry.SlabBytes() / o.geometry.SmallestPageBytes();
  const int64_t pages = std::min(
      pages_of_pool, NumHeads(o) * CeilDiv(o.max_positions, kPageSlots));
  const int64_t bytes = NumHeads(o) * sizeof(KvHead) + pages * sizeof(uint32_t);
  return CeilDiv(bytes, 64) * 64;
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(
    const KvCacheOptions& options, Device* device) {
  const int64_t slab_bytes = options.geometry.SlabBytes();
  if (options.num_slabs < 1 || options.num_slabs > kMaxPoolBytes / slab_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a KV pool of ", options.num_slabs, " ", options.geometry.SlabsName(),
        " of ", slab_bytes, " bytes; it must have at least one and at most ",
        kMaxPoolBytes >> 30, " GiB"));
  }
  H2O_ASSIGN_OR_RETURN(Buffer memory,
                       device->Allocate(options.num_slabs * slab_bytes));
  H2O_ASSIGN_OR_RETURN(Buffer tables, device->Allocate(options.max_sequences *
                                                       TableBytes(options)));
  return std::unique_ptr<KvCache>(
      new KvCache(options, device, std::move(memory), std::move(tables)));
}

KvCache::KvCache(const KvCacheOptions& options, Device* device, Buffer memory,
                 Buffer tables)
    : options_(options),
      slab_bytes_(options.geometry.SlabBytes()),
      device_(device),
      memory_(std::move(memory)),
      tables_(std::move(tables)),
      pool_{memory_.data(), tables_.As<uint32_t>(), options.geometry.head_dim},
      free_slabs_(options.num_slabs),
      free_seats_(options.max_sequences) {
  // Low slabs are handed out first, so that a pool touches only what it needs.
  std::iota(free_slabs_.rbegin(), free_slabs_.rend(), 0);
  std::iota(free_seats_.rbegin(), free_seats_.rend(), 0);
}

absl::Status KvCache::Open(uint64_t id, const KvPolicy& policy,
                           int64_t max_stored_tokens) {
  H2O_CHECK(!sequences_.contains(id)) << "sequence " << id << " is open";
  const int64_t needed =
      options_.geometry.SlabsNeeded(policy, max_stored_tokens, options_.heads);
  if (needed > free_slabs() || free_seats_.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("sequence ", id, " needs ", needed, " KV ",
                     options_.geometry.SlabsName(), ", ", free_slabs(), " of ",
                     num_slabs(), " are free; ", sequences_.size(), " of ",
                     options_.max_sequences, " sequences are open"));
  }
  H2O_CHECK(max_stored_tokens <= options_.max_positions)
      << max_stored_tokens << " tokens of " << options_.max_positions;
  Holding& holding = sequences_[id];
  holding.seat = free_seats_.back();
  free_seats_.pop_back();
  // In ascending order, as they are read.
  holding.slabs.assign(free_slabs_.rbegin(), free_slabs_.rbegin() + needed);
  free_slabs_.resize(free_slabs_.size() - needed);
  UploadTables(holding, policy, max_stored_tokens);
  return absl::OkStatus();
}

void KvCache::UploadTables(const Holding& holding, const KvPolicy& policy,
                           int64_t max_stored_tokens) {
  const KvGeometry& geometry = options_.geometry;
  KvHead* const to = HeadsOf(holding.seat);
  uint32_t* const table = reinterpret_cast<uint32_t*>(to + NumHeads(options_));
  const int64_t first = table - tables_.As<uint32_t>();
  std::vector<KvHead> heads;
  heads.reserve(NumHeads(options_));
  std::vector<uint32_t> pages;
  SlabFill fill(slab_bytes_);
  for (int layer = 0; layer < geometry.num_layers; ++layer) {
    for (int64_t h = options_.heads.begin; h < options_.heads.end; ++h) {
      const KvSlots& slots =
          policy.At(layer, static_cast<int>(h), geometry.num_heads);
      const KvFormat& format = geometry.FormatOf(layer, h);
      const int64_t page_bytes = geometry.PageBytes(format);
      heads.push_back(
          {static_cast<uint32_t>(first + pages.size()), format, slots, 0});
      for (int64_t n = PagesOfHead(slots.Capacity(), max_stored_tokens); n > 0;
           --n) {
        const int64_t in_slab = fill.Add(page_bytes);
        const int64_t slab = holding.slabs[fill.slabs() - 1];
        pages.push_back(
            static_cast<uint32_t>((slab * slab_bytes_ + in_slab) / kLineBytes));
      }
    }
  }
  device_->Upload(heads.data(), heads.size() * sizeof(KvHead), to);
  device_->Upload(pages.data(), pages.size() * sizeof(uint32_t), table);
}

void KvCache::Close(uint64_t id) {
  const auto it = sequences_.find(id);
  H2O_CHECK(it != sequences_.end()) << "sequence " << id << " is not open";
  const std::vector<int32_t>& slabs = it->second.slabs;
  free_slabs_.insert(free_slabs_.end(), slabs.rbegin(), slabs.rend());
  free_seats_.push_back(it->second.seat);
  sequences_.erase(it);
}

int KvCache::Seat(uint64_t id) const {
  const auto it = sequences_.find(id);
  H2O_CHECK(it != sequences_.end()) << "sequence " << id << " is not open";
  return it->second.seat;
}

KvHead* KvCache::Heads(uint64_t id) const { return HeadsOf(Seat(id)); }

KvHead* KvCache::HeadsOf(int seat) const {
  return reinterpret_cast<KvHead*>(tables_.data() +
                                   seat * TableBytes(options_));
}

}  // namespace h2o
