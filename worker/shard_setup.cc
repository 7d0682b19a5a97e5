// The steps by which a rank is made, in the order in which each needs the one
// before: device, weights, workspace, and the KV pool in what memory is left.
#include "worker/shard_setup.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"
#include "base/finish_reason.h"
#include "base/head_dim.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "model/family.h"
#include "model/fingerprint.h"
#include "model/safetensors.h"
#include "worker/cuda_options.h"

namespace h2o {
namespace {

absl::Status CheckOptions(const ShardOptions& options) {
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(options.config, options.size));
  const QkvLayout& qkv = options.config.qkv;
  if (qkv.kv_heads != qkv.heads) {
    return absl::UnimplementedError(absl::StrCat(
        options.config.name, " has ", qkv.kv_heads, " KV heads for ", qkv.heads,
        " query heads; the attention kernels need as many of both"));
  }
  if (options.max_sequences < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max-sequences ", options.max_sequences, "; it must be at least 1"));
  }
  if (options.kv_pool_bytes == 0 &&
      !(options.memory_share >= 0 && options.memory_share <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "memory-share ", options.memory_share, "; it must be in (0, 1]"));
  }
  if (options.config.stop_tokens.size() > kMaxStopTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model has ", options.config.stop_tokens.size(),
                     " stop tokens; it may have up to ", kMaxStopTokens));
  }
  return absl::OkStatus();
}

// Heads are wide enough for any GPU's products; the other widths may be odd.
absl::Status CheckFp8Outputs(const ModelConfig& config,
                             const ShardSpec& shard) {
  for (const int64_t outputs :
       {shard.ffn_columns.size(), int64_t{config.hidden_size}}) {
    if (outputs % kFp8OutputStep == 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("activations fp8: a rank has a product of ", outputs,
                     " outputs; they must be a multiple of ", kFp8OutputStep,
                     ": use another tensor parallel size, or 16bit"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Backend>> OpenGpu(const ShardOptions& options,
                                                 const ShardSpec& shard,
                                                 DType dtype) {
  H2O_RETURN_IF_ERROR(CheckGpuFormats(options.model));
  H2O_RETURN_IF_ERROR(CheckCudaHeadDim(options.config.stored_head_dim()));
  CudaBackendOptions backend = CudaOptionsOf(options.config, shard);
  backend.ordinal = options.device.ordinal;
  backend.dtype = dtype;
  backend.max_prompt_rows = options.config.max_positions;
  if (options.model.fp8_activations) {
    H2O_RETURN_IF_ERROR(CheckFp8Outputs(options.config, shard));
    backend.fp8_rows =
        std::max(options.config.max_positions, options.max_sequences);
  }
  backend.max_slots = options.config.max_positions;
  backend.cache_directory = options.cache_directory;
  return NewCudaBackend(backend);
}

absl::StatusOr<std::unique_ptr<Backend>> OpenCpu(const ShardOptions& options,
                                                 const ShardSpec& shard,
                                                 DType dtype,
                                                 const Clock* clock,
                                                 HostMemory* memory) {
  const ModelConfig& config = options.config;
  CpuBackendOptions backend;
  backend.memory = memory;
  backend.num_threads = options.num_threads;
  backend.max_prompt = config.max_positions;
  backend.max_slots = config.max_positions;
  backend.max_rows = std::max(config.max_positions, options.max_sequences);
  backend.max_inputs =
      std::max<int64_t>({config.hidden_size, config.embed_dim,
                         shard.ffn_columns.size(), shard.qkv.query_columns()});
  backend.max_heads = static_cast<int>(shard.heads.size());
  backend.vocab_size = config.vocab_size;
  backend.head_dim = config.qkv.head_dim;
  backend.head_padding = config.head_padding;
  backend.bf16_products = dtype == DType::kBFloat16;
  backend.fp8_activations = options.model.fp8_activations;
  backend.clock = clock;
  return NewCpuBackend(backend);
}

// Hashes a checkpoint while its weights are loaded.
class BackgroundFingerprint {
 public:
  BackgroundFingerprint(const Checkpoint& checkpoint,
                        const std::string& cache_directory) {
    // Every core helps: the hash is to be no slower than the disk.
    const int threads = static_cast<int>(std::thread::hardware_concurrency());
    fingerprint_ = std::async(std::launch::async, [=, this, &checkpoint] {
      return Fingerprint(checkpoint, {.num_threads = std::max(threads, 1),
                                      .cache_directory = cache_directory,
                                      .stop = &stop_});
    });
  }
  // Does not wait for the hash if nobody did.
  ~BackgroundFingerprint() { stop_ = true; }

  absl::StatusOr<std::string> Wait() { return fingerprint_.get(); }

 private:
  std::atomic<bool> stop_ = false;
  std::future<absl::StatusOr<std::string>> fingerprint_;
};

absl::StatusOr<std::string> LoadWeights(const ShardOptions& options,
                                        const WeightOptions& weights,
                                        ShardParts* parts) {
  std::optional<BackgroundFingerprint> fingerprint;
  if (weights.checkpoint != nullptr && options.fingerprint) {
    fingerprint.emplace(*weights.checkpoint, options.cache_directory);
  }
  H2O_ASSIGN_OR_RETURN(parts->weights,
                       LoadShardWeights(parts->config, parts->shard, weights,
                                        parts->backend.get()));
  parts->info.memory.weights = parts->weights.memory.bytes();
  parts->info.memory.looked_up = parts->weights.looked_up_bytes();
  if (fingerprint) return fingerprint->Wait();
  return weights.checkpoint == nullptr
             ? absl::StrCat("dummy-", options.model.dummy_seed)
             : "";
}

absl::Status MakeWeights(const ShardOptions& options, DType dtype,
                         const WeightCoding& coding,
                         std::function<void(double)> progress,
                         ShardParts* parts) {
  const ModelConfig& config = parts->config;
  std::unique_ptr<const Checkpoint> checkpoint;
  if (!options.model.dummy) {
    H2O_ASSIGN_OR_RETURN(const Family* family, FindFamily(config.family));
    H2O_ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(options.model.model,
                                                      family->names.prefix));
  }
  H2O_ASSIGN_OR_RETURN(
      const std::string fingerprint,
      LoadWeights(options,
                  {checkpoint.get(), options.model.dummy_seed, dtype, coding,
                   options.num_threads, std::move(progress)},
                  parts));
  parts->info.fingerprint =
      absl::StrCat(fingerprint, "/", config.num_layers, "x", config.qkv.heads,
                   "x", config.qkv.head_dim, "/", options.model.dtype, "/",
                   options.model.kv_dtype);
  if (!IsPlain(coding.format)) {
    absl::StrAppend(&parts->info.fingerprint, "/", options.model.weights);
  }
  if (options.model.fp8_activations) {
    absl::StrAppend(&parts->info.fingerprint, "/fp8 activations");
  }
  return absl::OkStatus();
}

absl::Status MakeWorkspace(ShardParts* parts) {
  Backend* const backend = parts->backend.get();
  parts->max_rows = backend->BatchBucket(parts->max_sequences);
  H2O_ASSIGN_OR_RETURN(
      parts->forward,
      Forward::Create(
          parts->config, parts->shard, parts->weights, backend,
          parts->communicator.get(),
          std::max<int64_t>(parts->config.max_positions, parts->max_rows),
          parts->max_rows));
  H2O_ASSIGN_OR_RETURN(
      parts->workspace,
      StepWorkspace::Create(parts->config, parts->shard, parts->max_rows,
                            parts->max_sequences, backend));
  parts->info.sums = parts->forward->sums().times();
  parts->info.memory.workspace = backend->OwnBytes() +
                                 parts->forward->workspace_bytes() +
                                 parts->workspace.memory.bytes();
  return absl::OkStatus();
}

// The slabs of a sequence whose heads all store `slots` slots.
int64_t SlabsOfSlots(const KvCacheOptions& cache, int64_t slots) {
  KvPolicy full;
  full.slots = {SlotsFor(KvPolicyName::kFull, static_cast<int32_t>(slots))};
  return cache.geometry.SlabsNeeded(full, slots, cache.heads);
}

// The slabs of a pool whose size the operator gave.
absl::StatusOr<int64_t> SlabsOfGivenPool(int64_t bytes,
                                         const KvCacheOptions& cache,
                                         int64_t free_bytes) {
  const int64_t slab_bytes = cache.geometry.SlabBytes();
  const int64_t smallest = SlabsOfSlots(cache, 1);
  const int64_t slabs = bytes / slab_bytes;
  if (slabs < smallest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "kv-pool-bytes ", bytes, " holds ", slabs, " ",
        cache.geometry.SlabsName(), "; the smallest sequence needs ", smallest,
        " (", cache.geometry.num_layers, " layers x ", cache.heads.size(),
        " heads), ", smallest * slab_bytes, " bytes"));
  }
  if (free_bytes > 0 && bytes > free_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "kv-pool-bytes ", bytes, " is more than the ", free_bytes,
        " bytes that are free once weights and workspace are taken"));
  }
  return slabs;
}

// The slabs of a pool that takes its share of the free memory.
absl::StatusOr<int64_t> SlabsOfFreeMemory(const ShardOptions& options,
                                          KvCacheOptions cache,
                                          const ShardParts& parts) {
  const int64_t slab_bytes = cache.geometry.SlabBytes();
  const int64_t smallest = SlabsOfSlots(cache, 1);
  const int64_t most =
      std::min(cache.max_sequences * SlabsOfSlots(cache, cache.max_positions),
               kMaxPoolBytes / slab_bytes);
  double share = options.memory_share;
  if (share == 0) share = options.device.cuda ? 0.95 : 0.5;
  const int64_t share_bytes =
      parts.memory != nullptr
          ? parts.memory->PoolBytes(share, options.local_ranks)
          : static_cast<int64_t>(
                static_cast<double>(parts.backend->FreeBytes()) * share /
                options.local_ranks);
  // The page tables lie beside the pool; assume the largest they can be.
  cache.num_slabs = most;
  const int64_t bytes = std::max<int64_t>(
      share_bytes - cache.max_sequences * KvCache::TableBytes(cache), 0);
  const int64_t slabs = std::min(bytes / slab_bytes, most);
  if (slabs < smallest) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no memory is left for a KV pool: ", bytes,
        " bytes, and the smallest sequence needs ", smallest * slab_bytes));
  }
  return slabs;
}

absl::Status MakeCache(const ShardOptions& options, ShardParts* parts) {
  KvCacheOptions cache;
  H2O_ASSIGN_OR_RETURN(cache.geometry,
                       GeometryOf(parts->config, options.model));
  cache.heads = parts->shard.kv_heads;
  cache.max_sequences = parts->max_sequences;
  cache.max_positions = parts->config.max_positions;
  // Nobody else measures until this pool is claimed.
  std::optional<HostMemory::Turn> turn;
  if (parts->memory != nullptr) {
    turn.emplace();
    parts->memory->StartPool();
  }
  H2O_ASSIGN_OR_RETURN(cache.num_slabs,
                       options.kv_pool_bytes > 0
                           ? SlabsOfGivenPool(options.kv_pool_bytes, cache,
                                              parts->backend->FreeBytes())
                           : SlabsOfFreeMemory(options, cache, *parts));
  H2O_ASSIGN_OR_RETURN(parts->cache,
                       KvCache::Create(cache, parts->backend.get()));
  parts->info.geometry = cache.geometry;
  parts->info.num_slabs = cache.num_slabs;
  parts->info.memory.kv_pool = cache.num_slabs * cache.geometry.SlabBytes();
  parts->info.memory.workspace +=
      cache.max_sequences * KvCache::TableBytes(cache);
  return absl::OkStatus();
}

// Seconds of the clock at which each stage of the making began.
struct StageTimes {
  double device = 0, weights = 0, memory = 0, end = 0;
};

void LogGpuSetup(const ShardOptions& options, const ShardParts& parts,
                 const StageTimes& at) {
  const auto gigabytes = [](int64_t bytes) {
    return std::floor(static_cast<double>(bytes) / 1e7) / 100;
  };
  const MemoryPlan& plan = parts.info.memory;
  H2O_LOG() << "rank " << options.rank << " took " << at.weights - at.device
            << " s for its GPU, " << at.memory - at.weights << " s for "
            << gigabytes(plan.weights) << " GB of weights, "
            << at.end - at.memory << " s for " << gigabytes(plan.workspace)
            << " GB of workspace and " << gigabytes(plan.kv_pool)
            << " GB of KV pages";
  if (options.rank == 0 && options.size > 1) {
    H2O_LOG() << "the ranks sum by " << parts.forward->sums().ToString();
  }
}

}  // namespace

ShardParts::ShardParts(const ShardOptions& options,
                       std::unique_ptr<Communicator> its_communicator)
    : config(options.config),
      shard(config.Shard(options.rank, options.size)),
      max_sequences(options.max_sequences),
      communicator(std::move(its_communicator)) {}

Matrix ShardParts::PrefillHidden(int64_t rows) const {
  return {workspace.prefill_hidden, rows, config.hidden_size,
          AlignedStride(config.hidden_size)};
}

Matrix ShardParts::DecodeHidden(int64_t rows) const {
  return {workspace.decode_hidden, rows, config.hidden_size,
          AlignedStride(config.hidden_size)};
}

int32_t* ShardParts::TokensAt(int seat) const {
  return workspace.sequence_tokens + seat * (int64_t{config.max_positions} + 1);
}

void ShardParts::CopyCache(uint64_t from, uint64_t to) const {
  backend->CopyHeads(cache->Heads(from), cache->Heads(to),
                     config.num_layers * num_local_heads(), cache->pool());
}

LogitBias* ShardParts::BiasesAt(int seat) const {
  return workspace.logit_biases + int64_t{seat} * kMaxLogitBiases;
}

Matrix ShardParts::LogitUndoOf(int64_t rows) const {
  const int64_t floats = UndoFloats(config.max_positions);
  return {workspace.logit_undo, rows, floats, AlignedStride(floats)};
}

absl::StatusOr<std::unique_ptr<ShardParts>> MakeShardParts(
    const ShardOptions& options, std::unique_ptr<Communicator> communicator,
    const Clock* clock, std::function<void(double fraction)> progress) {
  H2O_RETURN_IF_ERROR(CheckOptions(options));
  ShardOptions o = options;
  o.model = WithFormats(options.model, options.config, options.device.cuda);
  H2O_ASSIGN_OR_RETURN(const DType dtype, ProductDType(o.model));
  H2O_ASSIGN_OR_RETURN(const WeightCoding coding, CodingOf(o.model));
  H2O_RETURN_IF_ERROR(GeometryOf(o.config, o.model).status());
  TimedCommunicator* timed = nullptr;
  if (!o.device.cuda) {
    auto owned =
        std::make_unique<TimedCommunicator>(std::move(communicator), clock);
    timed = owned.get();
    communicator = std::move(owned);
  }
  auto parts = std::make_unique<ShardParts>(o, std::move(communicator));
  parts->timed = timed;
  parts->info.config = o.config;
  StageTimes at;
  at.device = clock->Now();
  if (!o.device.cuda) {
    parts->memory = std::make_unique<HostMemory>(
        o.memory_group.empty() ? absl::StrCat("alone-", RandomBits64())
                               : o.memory_group);
  }
  H2O_ASSIGN_OR_RETURN(parts->backend,
                       o.device.cuda ? OpenGpu(o, parts->shard, dtype)
                                     : OpenCpu(o, parts->shard, dtype, clock,
                                               parts->memory.get()));
  at.weights = clock->Now();
  if (!IsPlain(coding.format) && !parts->backend->formats().codes) {
    return absl::UnimplementedError(
        absl::StrCat("weights ", o.model.weights,
                     ": on GPUs they need Hopper, and a build for sm_90a"));
  }
  parts->communicator->UseStream(parts->backend->stream());
  H2O_RETURN_IF_ERROR(
      MakeWeights(o, IsPlain(coding.format) ? DTypeOf(coding.format) : dtype,
                  coding, std::move(progress), parts.get()));
  at.memory = clock->Now();
  if (parts->backend->formats().packs_prompts) {
    parts->info.packed_tokens = o.config.max_positions;
  }
  H2O_RETURN_IF_ERROR(MakeWorkspace(parts.get()));
  H2O_RETURN_IF_ERROR(MakeCache(o, parts.get()));
  H2O_RETURN_IF_ERROR(parts->backend->Synchronize());
  at.end = clock->Now();
  if (o.device.cuda) LogGpuSetup(o, *parts, at);
  if (timed != nullptr) timed->TakeSeconds();  // those of loading
  return parts;
}

}  // namespace h2o
