#include "worker/shard_runner.h"

#include <algorithm>
#include <bit>
#include <deque>
#include <map>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kv/kv_cache.h"
#include "model/safetensors.h"
#include "parallel/failure_latch.h"
#include "worker/forward.h"
#include "worker/shard_weights.h"
#include "worker/step_workspace.h"

namespace h2o {
namespace {

// Layers of a step that are timed one by one; marks are not without number.
constexpr size_t kMaxTimedLayers = 1024;

// What plans make known of a sequence; results are known later, if at all.
struct OpenSequence {
  SequenceSpec spec;
  int slot = 0;  // its entry of the device's state
  bool prefilled = false;
  int32_t planned_tokens = 0;

  int32_t prompt_length() const {
    return static_cast<int32_t>(spec.prompt.size());
  }
  // Position of the token that the step planned last processes.
  int32_t position() const { return prompt_length() + planned_tokens - 2; }
  bool draws() const {
    return spec.sampling.temperature > 0 && spec.forced.empty();
  }
};

// Whether any head of a policy keeps scores; whether any gives up tokens.
bool KeepsScores(const KvPolicy& policy) {
  return std::any_of(
      policy.slots.begin(), policy.slots.end(),
      [](const KvSlots& s) { return s.score_rule != ScoreRule::kNone; });
}
bool Evicts(const SequenceSpec& spec) {
  const int64_t stored = MaxStoredTokens(spec.prompt.size(), spec.max_tokens);
  return std::any_of(spec.policy.slots.begin(), spec.policy.slots.end(),
                     [&](const KvSlots& s) { return s.Capacity() < stored; });
}
int32_t LargestCapacity(const KvPolicy& policy) {
  int32_t most = 0;
  for (const KvSlots& s : policy.slots) most = std::max(most, s.Capacity());
  return most;
}

// The hidden states of a prefill between two of its slices: prompts side by
// side.  A prompt whose sequence was retired meanwhile keeps its rows and
// nothing else: id 0.
struct PausedPrefill {
  std::vector<uint64_t> sequence_ids;
  std::vector<int32_t> starts;  // of their rows, and the end
  int32_t next_layer = 0;       // 0: none is paused
};

// What all ranks share of a sequence, as the results say.
struct Observed {
  int32_t length = 0;
  int32_t last_token = 0;
};

// A launched plan.
struct Pending {
  StepResult result;  // what is known of it
  int ring = 0;       // where its rows' results come
  std::vector<uint64_t> emitted;
  std::vector<uint64_t> retired;
  std::vector<std::pair<uint64_t, int32_t>> admitted;  // with their lengths
  int64_t start = 0, prefilled = 0, end = 0;           // marks
  // The end of the plan before, if that was under way when this was launched.
  std::optional<int64_t> end_before;
  std::vector<std::pair<int64_t, int64_t>> layers;  // marks around each
};

class Runner final : public ShardRunner {
 public:
  Runner(const ShardOptions& options,
         std::unique_ptr<Communicator> communicator)
      : config_(options.config),
        shard_(config_.Shard(options.rank, options.size)),
        max_sequences_(options.max_sequences),
        communicator_(std::move(communicator)) {}

  absl::Status Init(const ShardOptions& options, const Clock* clock,
                    std::function<void(double)> progress);

  absl::Status Launch(const StepPlan& plan) override;
  int in_flight() const override { return static_cast<int>(pending_.size()); }
  bool Ready() override {
    return !pending_.empty() && backend_->Reached(pending_.front().end);
  }
  absl::StatusOr<StepResult> Collect() override;

  const KvGeometry& geometry() const override { return cache_->geometry(); }
  int64_t num_pages() const override { return cache_->num_pages(); }
  int64_t free_pages() const override { return cache_->free_pages(); }
  int64_t packed_tokens() const override {
    return backend_->formats().packs_prompts ? config_.max_positions : 0;
  }
  MemoryPlan memory_plan() const override { return memory_plan_; }
  std::vector<SumTimes> sum_times() const override {
    return forward_->sums().times();
  }
  std::string fingerprint() const override { return fingerprint_; }
  void Abort(absl::Status reason) override {
    aborted_.Set(reason);
    communicator_->Abort(std::move(reason));
  }

 private:
  int64_t hidden_stride() const { return AlignedStride(config_.hidden_size); }
  int num_local_heads() const { return static_cast<int>(shard_.heads.size()); }

  absl::Status MakeBackend(const ShardOptions& options, DType dtype,
                           const Clock* clock);
  absl::Status LoadWeights(const ShardOptions& options, DType dtype,
                           std::function<void(double)> progress);
  absl::Status MakeCache(const ShardOptions& options);

  absl::StatusOr<OpenSequence*> Find(uint64_t id);
  absl::Status Admit(const SequenceSpec& spec, Pending* step);
  absl::Status Retire(uint64_t id, Pending* step);
  absl::Status Prefill(const PrefillSlice& slice, Pending* step);
  absl::Status BeginSlice(const PrefillSlice& slice);
  absl::Status EmbedPrompts(absl::Span<OpenSequence* const> rows, Matrix x);
  // The last token of each prompt, unless somebody wants the logits of all.
  Forward::LastRows LastRowsOf(absl::Span<OpenSequence* const> rows);
  // Gives the prompts, whose last tokens have `features`, their first tokens;
  // rows of retired ones are null.
  absl::Status EndPrefill(absl::Span<OpenSequence* const> rows, Matrix features,
                          Pending* step);
  int64_t TimeLayer(int64_t before, Pending* step);
  absl::Status Decode(const std::vector<uint64_t>& ids, Pending* step);
  absl::Status DecodeRows(int64_t rows, const DecodeBatch& batch, bool whole,
                          bool draws);

  // The next token of each row: features [rows, hidden] of sequences slots[r].
  // `whole`: gathers all ranks' logits, `draws`: some row samples from them.
  absl::Status EmitTokens(Matrix features, const int32_t* slots, bool whole,
                          bool draws);
  // What EmitTokens gave the first sequences.size() rows goes to the host.
  void DownloadResults(absl::Span<OpenSequence* const> sequences,
                       Pending* step);
  // From this rank's logits to WholeLogits.
  absl::Status GatherLogits(Matrix logits);
  // Logits of the whole vocabulary of the last step that wanted them.
  Matrix WholeLogits(int64_t rows) const;

  // Results that are large and rare; these wait for the device, and do so
  // before they copy: a copy to memory that is not pinned waits within the
  // driver, and holds up all that other ranks of the process enqueue.
  absl::Status ReportLogits(absl::Span<OpenSequence* const> rows,
                            Pending* step);
  absl::Status ReportPromptLogits(const OpenSequence& sequence, int64_t begin,
                                  Pending* step);
  absl::Status TracePrompt(const OpenSequence& sequence, Pending* step);
  absl::Status TraceStep(absl::Span<OpenSequence* const> rows, int64_t stride,
                         Pending* step);

  template <class T>
  void UploadAll(const std::vector<T>& values, T* to) {
    backend_->Upload(values.data(), values.size() * sizeof(T), to);
  }
  RowResult* ResultsOf(int ring) const {
    return results_.As<RowResult>() + int64_t{2} * max_sequences_ * ring;
  }
  uint64_t Checksum(uint64_t step) const;

  const ModelConfig config_;
  const ShardSpec shard_;
  const int max_sequences_;
  const std::unique_ptr<Communicator> communicator_;
  FailureLatch aborted_;
  std::string fingerprint_;
  MemoryPlan memory_plan_;
  std::unique_ptr<Backend> backend_;
  ShardWeights weights_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<KvCache> cache_;

  int64_t max_rows_ = 0;  // of a decode step, padding included
  StepWorkspace w_;
  Buffer results_;  // on the host: a ring of kMaxInFlight steps
  std::vector<int32_t> uploaded_slots_;  // what w_.slots holds

  // Of what was launched.
  uint64_t last_step_ = 0;
  std::map<uint64_t, OpenSequence> sequences_;
  PausedPrefill paused_;
  std::deque<Pending> pending_;

  // Of what was collected.
  std::map<uint64_t, Observed> observed_;
};

absl::Status Runner::Init(const ShardOptions& options, const Clock* clock,
                          std::function<void(double)> progress) {
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(config_, options.size));
  if (options.max_sequences < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max-sequences ", options.max_sequences, "; it must be at least 1"));
  }
  if (options.kv_pool_bytes == 0 &&
      !(options.memory_share >= 0 && options.memory_share <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "memory-share ", options.memory_share, "; it must be in (0, 1]"));
  }
  ShardOptions o = options;
  o.model = WithFormats(options.model, config_, options.device.cuda);
  H2O_ASSIGN_OR_RETURN(DType dtype, WeightDType(o.model));
  H2O_RETURN_IF_ERROR(GeometryOf(config_, o.model).status());
  const double begun = clock->Now();
  H2O_RETURN_IF_ERROR(MakeBackend(o, dtype, clock));
  const double found = clock->Now();
  communicator_->UseStream(backend_->stream());
  H2O_RETURN_IF_ERROR(LoadWeights(o, dtype, std::move(progress)));
  const double loaded = clock->Now();
  max_rows_ = backend_->BatchBucket(max_sequences_);
  H2O_ASSIGN_OR_RETURN(
      forward_,
      Forward::Create(
          config_, shard_, weights_, backend_.get(), communicator_.get(),
          std::max<int64_t>(config_.max_positions, max_rows_), max_rows_));
  H2O_ASSIGN_OR_RETURN(
      w_, StepWorkspace::Create(config_, shard_, max_rows_, max_sequences_,
                                backend_.get()));
  H2O_ASSIGN_OR_RETURN(
      results_, backend_->AllocateStaging(int64_t{2} * kMaxInFlight *
                                          max_sequences_ * sizeof(RowResult)));
  memory_plan_.weights = weights_.memory.bytes();
  memory_plan_.workspace =
      backend_->OwnBytes() + forward_->workspace_bytes() + w_.memory.bytes();
  H2O_RETURN_IF_ERROR(MakeCache(o));
  H2O_RETURN_IF_ERROR(backend_->Synchronize());
  if (o.device.cuda) {
    const auto gigabytes = [](int64_t bytes) {
      return static_cast<double>(bytes / 10'000'000) / 100;
    };
    H2O_LOG() << "rank " << o.rank << " took " << found - begun
              << " s for its GPU, " << loaded - found << " s for "
              << gigabytes(memory_plan_.weights) << " GB of weights, "
              << clock->Now() - loaded << " s for "
              << gigabytes(memory_plan_.workspace) << " GB of workspace and "
              << gigabytes(memory_plan_.kv_pool) << " GB of KV pages";
    if (o.rank == 0 && o.size > 1) {
      H2O_LOG() << "the ranks sum by " << forward_->sums().ToString();
    }
  }
  return absl::OkStatus();
}

absl::Status Runner::MakeBackend(const ShardOptions& options, DType dtype,
                                 const Clock* clock) {
  if (options.device.cuda) {
    H2O_RETURN_IF_ERROR(CheckGpuFormats(options.model));
    CudaBackendOptions backend;
    backend.ordinal = options.device.ordinal;
    backend.dtype = dtype;
    backend.max_prompt_rows = config_.max_positions;
    backend.max_heads = num_local_heads();
    backend.head_dim = config_.head_dim();
    backend.max_slots = config_.max_positions;
    backend.hidden_size = config_.hidden_size;
    backend.embed_dim = config_.embed_dim;
    backend.cache_directory = options.cache_directory;
    H2O_ASSIGN_OR_RETURN(backend_, NewCudaBackend(backend));
    return absl::OkStatus();
  }
  CpuBackendOptions backend;
  backend.num_threads = options.num_threads;
  backend.max_prompt = config_.max_positions;
  backend.max_slots = config_.max_positions;
  backend.max_rows = std::max(config_.max_positions, options.max_sequences);
  backend.max_inputs = std::max<int64_t>(
      {config_.hidden_size, config_.embed_dim, shard_.ffn_columns.size()});
  backend.max_heads = num_local_heads();
  backend.vocab_size = config_.vocab_size;
  backend.head_dim = config_.head_dim();
  backend.bf16_products = dtype == DType::kBFloat16;
  backend.clock = clock;
  H2O_ASSIGN_OR_RETURN(backend_, NewCpuBackend(backend));
  return absl::OkStatus();
}

absl::Status Runner::LoadWeights(const ShardOptions& options, DType dtype,
                                 std::function<void(double)> progress) {
  std::unique_ptr<const Checkpoint> checkpoint;
  if (options.model.dummy) {
    fingerprint_ = absl::StrCat("dummy-", options.model.dummy_seed);
  } else {
    H2O_ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(options.model.model));
    fingerprint_ = checkpoint->Fingerprint();
  }
  absl::StrAppend(&fingerprint_, "/", config_.num_layers, "x",
                  config_.num_heads, "x", config_.head_dim(), "/",
                  options.model.dtype, "/", options.model.kv_dtype);
  H2O_ASSIGN_OR_RETURN(
      weights_,
      LoadShardWeights(config_, shard_,
                       {checkpoint.get(), options.model.dummy_seed, dtype,
                        options.num_threads, std::move(progress)},
                       backend_.get()));
  return absl::OkStatus();
}

absl::Status Runner::MakeCache(const ShardOptions& options) {
  KvCacheOptions cache;
  H2O_ASSIGN_OR_RETURN(cache.geometry, GeometryOf(config_, options.model));
  cache.heads = shard_.heads;
  cache.max_sequences = max_sequences_;
  cache.max_positions = config_.max_positions;
  const int64_t page_bytes = cache.geometry.PageBytes();
  const int64_t smallest = config_.num_layers * shard_.heads.size();
  const int64_t most = int64_t{max_sequences_} * smallest *
                       CeilDiv(config_.max_positions, kPageSlots);
  int64_t bytes = options.kv_pool_bytes;
  if (bytes > 0) {
    cache.num_pages = bytes / page_bytes;
    if (cache.num_pages < smallest) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv-pool-bytes ", bytes, " holds ", cache.num_pages,
                       " pages; the smallest sequence needs ", smallest, " (",
                       config_.num_layers, " layers x ", shard_.heads.size(),
                       " heads), ", smallest * page_bytes, " bytes"));
    }
    const int64_t free = backend_->FreeBytes();
    if (free > 0 && bytes > free) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "kv-pool-bytes ", bytes, " is more than the ", free,
          " bytes that are free once weights and workspace are taken"));
    }
  } else {
    double share = options.memory_share;
    if (share == 0) share = options.device.cuda ? 0.95 : 0.5;
    // Page tables beside it, as large as they can be.
    cache.num_pages = most;
    const int64_t left =
        backend_->FreeBytes() - max_sequences_ * KvCache::TableBytes(cache);
    bytes =
        static_cast<int64_t>(static_cast<double>(std::max<int64_t>(left, 0)) *
                             share / options.local_ranks);
    cache.num_pages = std::min(bytes / page_bytes, most);
    if (cache.num_pages < smallest) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no memory is left for a KV pool: ", bytes,
          " bytes, and the smallest sequence needs ", smallest * page_bytes));
    }
  }
  H2O_ASSIGN_OR_RETURN(cache_, KvCache::Create(cache, backend_.get()));
  memory_plan_.kv_pool = cache.num_pages * page_bytes;
  memory_plan_.workspace += max_sequences_ * KvCache::TableBytes(cache);
  return absl::OkStatus();
}

absl::StatusOr<OpenSequence*> Runner::Find(uint64_t id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) {
    return absl::InternalError(
        absl::StrCat("the plan names sequence ", id, ", which is not open"));
  }
  return &it->second;
}

absl::Status Runner::Launch(const StepPlan& plan) {
  H2O_CHECK(in_flight() < kMaxInFlight) << in_flight();
  if (plan.step != last_step_ + 1) {
    return absl::InternalError(absl::StrCat("plan ", plan.step, " follows ",
                                            last_step_,
                                            "; ranks run in lockstep"));
  }
  last_step_ = plan.step;
  Pending step;
  step.result.step = plan.step;
  step.ring = static_cast<int>(plan.step % kMaxInFlight);
  for (uint64_t id : plan.retire) H2O_RETURN_IF_ERROR(Retire(id, &step));
  for (const SequenceSpec& spec : plan.admit) {
    H2O_RETURN_IF_ERROR(Admit(spec, &step));
  }
  if (!pending_.empty()) step.end_before = pending_.back().end;
  step.start = backend_->Mark();
  for (const PrefillSlice& slice : plan.prefill) {
    H2O_RETURN_IF_ERROR(Prefill(slice, &step));
  }
  step.prefilled = backend_->Mark();
  H2O_RETURN_IF_ERROR(Decode(plan.decode, &step));
  step.end = backend_->Mark();
  pending_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<StepResult> Runner::Collect() {
  H2O_CHECK(!pending_.empty());
  Pending step = std::move(pending_.front());
  pending_.pop_front();
  const absl::Status waited = backend_->Wait(step.end);
  // An abort takes away memory that kernels may still use; it is the reason.
  if (aborted_.failed()) return aborted_.Get();
  H2O_RETURN_IF_ERROR(waited);
  StepResult& result = step.result;
  for (uint64_t id : step.retired) observed_.erase(id);
  for (const auto& [id, length] : step.admitted) observed_[id].length = length;
  const RowResult* row = ResultsOf(step.ring);
  for (uint64_t id : step.emitted) {
    const RowResult r = *row++;
    if (r.token < 0) continue;  // it finished in the step before
    Observed& o = observed_.at(id);
    ++o.length;
    o.last_token = r.token;
    result.tokens.push_back({id, r.token, r.finish});
  }
  result.prefill_seconds = backend_->SecondsBetween(step.start, step.prefilled);
  result.decode_seconds = backend_->SecondsBetween(step.prefilled, step.end);
  if (step.end_before) {
    result.idle_seconds =
        backend_->SecondsBetween(*step.end_before, step.start);
  }
  for (const auto& [before, after] : step.layers) {
    result.slowest_layer_seconds = std::max(
        result.slowest_layer_seconds, backend_->SecondsBetween(before, after));
  }
  result.checksum = Checksum(result.step);
  return std::move(step.result);
}

absl::Status Runner::Admit(const SequenceSpec& spec, Pending* step) {
  if (sequences_.contains(spec.id) ||
      static_cast<int>(sequences_.size()) >= max_sequences_) {
    return absl::InternalError(absl::StrCat("the plan admits sequence ",
                                            spec.id,
                                            ", which is open already or over "
                                            "the limit of ",
                                            max_sequences_));
  }
  const int64_t stored = MaxStoredTokens(spec.prompt.size(), spec.max_tokens);
  if (spec.prompt.empty() || spec.max_tokens < 1 ||
      stored > config_.max_positions ||
      static_cast<int64_t>(spec.forced.size()) > config_.max_positions) {
    return absl::InternalError(absl::StrCat("the plan admits sequence ",
                                            spec.id, " of ", spec.prompt.size(),
                                            " + ", spec.max_tokens, " tokens"));
  }
  for (const std::vector<int32_t>* tokens : {&spec.prompt, &spec.forced}) {
    for (int32_t token : *tokens) {
      if (token < 0 || token >= config_.vocab_size) {
        return absl::InternalError(absl::StrCat("the plan has token ", token));
      }
    }
  }
  const size_t per_head =
      static_cast<size_t>(config_.num_layers) * config_.num_heads;
  if (spec.policy.slots.size() != 1 && spec.policy.slots.size() != per_head) {
    return absl::InternalError(absl::StrCat(
        "the plan has budgets for ", spec.policy.slots.size(), " heads"));
  }
  const absl::Status opened = cache_->Open(spec.id, spec.policy, stored);
  if (!opened.ok()) {
    return absl::InternalError(
        absl::StrCat("admission was not exact: ", opened.message()));
  }
  OpenSequence& sequence = sequences_[spec.id];
  sequence.spec = spec;
  sequence.slot = cache_->Slot(spec.id);

  SequenceState state;
  state.heads = cache_->Heads(spec.id);
  state.position = sequence.prompt_length() - 1;
  state.max_tokens = spec.max_tokens;
  state.stop_token = spec.ignore_eos ? -1 : config_.eos_token;
  state.sampling = spec.sampling;
  if (!spec.forced.empty()) {
    int32_t* forced =
        w_.forced + int64_t{sequence.slot} * config_.max_positions;
    state.forced = forced;
    state.num_forced = static_cast<int32_t>(spec.forced.size());
    backend_->Upload(spec.forced.data(), spec.forced.size() * sizeof(int32_t),
                     forced);
  }
  backend_->Upload(&state, sizeof(state), w_.states + sequence.slot);
  step->admitted.emplace_back(spec.id, sequence.prompt_length());
  return absl::OkStatus();
}

absl::Status Runner::Retire(uint64_t id, Pending* step) {
  H2O_RETURN_IF_ERROR(Find(id).status());
  std::vector<uint64_t>& paused = paused_.sequence_ids;
  std::replace(paused.begin(), paused.end(), id, uint64_t{0});
  if (std::all_of(paused.begin(), paused.end(),
                  [](uint64_t p) { return p == 0; })) {
    paused_ = {};
  }
  cache_->Close(id);
  sequences_.erase(id);
  step->retired.push_back(id);
  return absl::OkStatus();
}

absl::Status Runner::Prefill(const PrefillSlice& slice, Pending* step) {
  H2O_RETURN_IF_ERROR(BeginSlice(slice));
  const std::vector<uint64_t>& ids = paused_.sequence_ids;
  const int64_t n = static_cast<int64_t>(ids.size());
  const Matrix x{w_.prefill_hidden, paused_.starts.back(), config_.hidden_size,
                 hidden_stride()};
  std::vector<OpenSequence*> rows(n, nullptr);  // null: retired
  std::vector<KvHead*> heads(n, nullptr);
  PromptBatch prompts;
  prompts.starts = paused_.starts;
  prompts.device_starts = w_.prompt_starts;
  prompts.heads = w_.prompt_heads;
  prompts.scored = false;
  for (int64_t p = 0; p < n; ++p) {
    if (ids[p] == 0) continue;
    rows[p] = &sequences_.at(ids[p]);
    heads[p] = cache_->Heads(ids[p]);
    prompts.scored |= KeepsScores(rows[p]->spec.policy);
  }
  UploadAll(heads, w_.prompt_heads);
  UploadAll(paused_.starts, w_.prompt_starts);
  if (slice.layer_begin == 0) H2O_RETURN_IF_ERROR(EmbedPrompts(rows, x));

  const bool ends = slice.layer_end == config_.num_layers;
  const Forward::LastRows last = ends ? LastRowsOf(rows) : Forward::LastRows();
  int64_t before = step->layers.size() < kMaxTimedLayers ? backend_->Mark() : 0;
  H2O_RETURN_IF_ERROR(forward_->Layers(
      slice.layer_begin, slice.layer_end, x,
      [&](int layer, Matrix qkv, Matrix out) {
        if (layer > slice.layer_begin) before = TimeLayer(before, step);
        backend_->PrefillAttention(qkv, prompts, layer, cache_->pool(), out);
      },
      last));
  TimeLayer(before, step);
  if (!ends) {
    paused_.next_layer = slice.layer_end;
    return absl::OkStatus();
  }
  const Matrix features = last.rows != nullptr
                              ? forward_->Features(n)
                              : forward_->GatherFeatures(w_.prompt_ends, n);
  const absl::Status status = EndPrefill(rows, features, step);
  paused_ = {};
  return status;
}

Forward::LastRows Runner::LastRowsOf(absl::Span<OpenSequence* const> rows) {
  const int64_t n = static_cast<int64_t>(rows.size());
  std::vector<int32_t> ends;
  bool all = false;
  for (int64_t p = 0; p < n; ++p) {
    ends.push_back(paused_.starts[p + 1] - 1);
    all |= rows[p] != nullptr && rows[p]->spec.logits;
  }
  // As many as a decode step would have: their products are then its own.
  const int64_t padded = backend_->BatchBucket(n);
  ends.resize(padded, ends.back());
  UploadAll(ends, w_.prompt_ends);
  if (all) return {};
  return {w_.prompt_ends,
          {w_.decode_hidden, padded, config_.hidden_size, hidden_stride()}};
}

int64_t Runner::TimeLayer(int64_t before, Pending* step) {
  if (step->layers.size() >= kMaxTimedLayers) return before;
  const int64_t after = backend_->Mark();
  step->layers.emplace_back(before, after);
  return after;
}

absl::Status Runner::BeginSlice(const PrefillSlice& slice) {
  std::vector<uint64_t> open = paused_.sequence_ids;
  std::erase(open, uint64_t{0});
  bool follows = slice.layer_begin == paused_.next_layer &&
                 slice.layer_end > slice.layer_begin &&
                 slice.layer_end <= config_.num_layers &&
                 !slice.sequence_ids.empty() &&
                 (paused_.next_layer == 0 || open == slice.sequence_ids);
  std::vector<int32_t> starts = {0};
  for (uint64_t id : slice.sequence_ids) {
    H2O_ASSIGN_OR_RETURN(OpenSequence * sequence, Find(id));
    follows &= !sequence->prefilled;
    starts.push_back(starts.back() + sequence->prompt_length());
  }
  follows &= starts.back() <= config_.max_positions &&
             static_cast<int64_t>(slice.sequence_ids.size()) <= max_rows_;
  if (!follows) {
    return absl::InternalError(absl::StrCat(
        "prefill of layers ", slice.layer_begin, " to ", slice.layer_end,
        " of sequence ", slice.sequence_ids.empty() ? 0 : slice.sequence_ids[0],
        " and of ", slice.sequence_ids.size(), " in all does not follow"));
  }
  if (slice.layer_begin == 0) {
    paused_ = {slice.sequence_ids, std::move(starts), 0};
  }
  return absl::OkStatus();
}

absl::Status Runner::EmbedPrompts(absl::Span<OpenSequence* const> rows,
                                  Matrix x) {
  std::vector<int32_t> tokens, positions;
  for (const OpenSequence* row : rows) {
    const std::vector<int32_t>& prompt = row->spec.prompt;
    tokens.insert(tokens.end(), prompt.begin(), prompt.end());
    positions.resize(tokens.size());
    std::iota(positions.end() - prompt.size(), positions.end(), 0);
  }
  UploadAll(tokens, w_.prompt_tokens);
  UploadAll(positions, w_.prompt_positions);
  return forward_->Embed(w_.prompt_tokens, w_.prompt_positions, x);
}

absl::Status Runner::EndPrefill(absl::Span<OpenSequence* const> rows,
                                Matrix features, Pending* step) {
  std::vector<int32_t> slots;
  bool draws = false, whole = false;
  for (size_t p = 0; p < rows.size(); ++p) {
    slots.push_back(rows[p] == nullptr ? -1 : rows[p]->slot);
    if (rows[p] == nullptr) continue;
    rows[p]->prefilled = true;
    rows[p]->planned_tokens = 1;
    draws |= rows[p]->draws();
    whole |= rows[p]->draws() || rows[p]->spec.logits;
    if (rows[p]->spec.trace) {
      H2O_RETURN_IF_ERROR(TracePrompt(*rows[p], step));
    }
    if (rows[p]->spec.logits) {
      H2O_RETURN_IF_ERROR(
          ReportPromptLogits(*rows[p], paused_.starts[p], step));
    }
  }
  UploadAll(slots, w_.prompt_slots);
  H2O_RETURN_IF_ERROR(EmitTokens(features, w_.prompt_slots, whole, draws));
  H2O_RETURN_IF_ERROR(ReportLogits(rows, step));
  DownloadResults(rows, step);
  return absl::OkStatus();
}

absl::Status Runner::Decode(const std::vector<uint64_t>& ids, Pending* step) {
  if (ids.empty()) return absl::OkStatus();
  const int64_t n = static_cast<int64_t>(ids.size());
  if (n > max_sequences_) {
    return absl::InternalError(
        absl::StrCat("the plan decodes ", n, " rows of ", max_sequences_));
  }
  std::vector<OpenSequence*> rows;
  std::vector<int32_t> slots;
  DecodeBatch batch;
  batch.heads = w_.heads;
  batch.positions = w_.positions;
  batch.scored = false;
  bool draws = false, whole = false, traced = false;
  for (uint64_t id : ids) {
    H2O_ASSIGN_OR_RETURN(OpenSequence * sequence, Find(id));
    if (!sequence->prefilled) {
      return absl::InternalError(
          absl::StrCat("decode of sequence ", id, " before its prefill"));
    }
    ++sequence->planned_tokens;
    rows.push_back(sequence);
    slots.push_back(sequence->slot);
    const SequenceSpec& spec = sequence->spec;
    batch.scored |= KeepsScores(spec.policy) || Evicts(spec);
    batch.max_slots =
        std::max(batch.max_slots,
                 std::min(sequence->position(), LargestCapacity(spec.policy)));
    draws |= sequence->draws();
    whole |= sequence->draws() || spec.logits;
    traced |= spec.trace;
  }
  // Steps of one bucket and one class of lengths are one recording.
  const int64_t padded = backend_->BatchBucket(n);
  slots.resize(padded, -1);
  batch.max_slots = DecodeSlotClass(batch.max_slots, config_.max_positions);
  const uint64_t key = static_cast<uint64_t>(padded) << 32 |
                       static_cast<uint64_t>(batch.max_slots) << 8 |
                       (batch.scored ? 4 : 0) | (whole ? 2 : 0) |
                       (draws ? 1 : 0);
  if (slots != uploaded_slots_) {
    UploadAll(slots, w_.slots);
    uploaded_slots_ = std::move(slots);
  }
  H2O_RETURN_IF_ERROR(backend_->Replay(
      key, [&] { return DecodeRows(padded, batch, whole, draws); }));
  H2O_RETURN_IF_ERROR(ReportLogits(rows, step));
  if (traced) H2O_RETURN_IF_ERROR(TraceStep(rows, padded, step));
  DownloadResults(rows, step);
  return absl::OkStatus();
}

absl::Status Runner::DecodeRows(int64_t rows, const DecodeBatch& batch,
                                bool whole, bool draws) {
  const Matrix x{w_.decode_hidden, rows, config_.hidden_size, hidden_stride()};
  backend_->BeginDecode(w_.states, w_.slots, rows, w_.row_tokens, w_.positions,
                        w_.heads);
  H2O_RETURN_IF_ERROR(forward_->Embed(w_.row_tokens, w_.positions, x));
  H2O_RETURN_IF_ERROR(
      forward_->Layers(0, config_.num_layers, x,
                       [&](int layer, Matrix qkv, Matrix out) {
                         backend_->DecodeAttention(
                             qkv, batch, layer, cache_->pool(), out,
                             w_.evicted + layer * rows * num_local_heads());
                       },
                       {}));
  return EmitTokens(forward_->Features(rows), w_.slots, whole, draws);
}

absl::Status Runner::EmitTokens(Matrix features, const int32_t* slots,
                                bool whole, bool draws) {
  const int64_t rows = features.rows;
  const Matrix logits = forward_->Logits(features);
  BestLogit* mine = w_.best + shard_.rank * rows;
  backend_->ArgMax(logits, static_cast<int32_t>(shard_.vocabulary.begin), mine);
  const std::vector<int64_t> bytes(shard_.size, rows * sizeof(BestLogit));
  H2O_RETURN_IF_ERROR(communicator_->AllGather(mine, bytes, w_.best));
  backend_->PickBest(w_.best, shard_.size, rows, w_.tokens);
  if (whole) H2O_RETURN_IF_ERROR(GatherLogits(logits));
  if (draws) {
    backend_->Sample(WholeLogits(rows), w_.states, slots, w_.tokens);
  }
  backend_->Advance(w_.states, slots, rows, w_.tokens, w_.results);
  return absl::OkStatus();
}

Matrix Runner::WholeLogits(int64_t rows) const {
  if (shard_.size == 1) return forward_->LogitsOf(rows);
  return {w_.whole_logits, rows, config_.vocab_size,
          AlignedStride(config_.vocab_size)};
}

absl::Status Runner::GatherLogits(Matrix logits) {
  if (shard_.size == 1) return absl::OkStatus();
  const int64_t rows = logits.rows;
  const Matrix whole = WholeLogits(rows);
  const auto width = [&](int rank) {
    return ShardOf(config_.vocab_size, rank, shard_.size);
  };
  std::vector<int64_t> bytes(shard_.size);
  float* mine = w_.logit_pieces;
  for (int rank = 0; rank < shard_.size; ++rank) {
    const int64_t floats = rows * width(rank).size();
    if (rank < shard_.rank) mine += floats;
    bytes[rank] = floats * sizeof(float);
  }
  const int64_t local_bytes = shard_.vocabulary.size() * sizeof(float);
  backend_->CopyRows(logits.data, logits.stride * sizeof(float), mine,
                     local_bytes, local_bytes, rows);
  H2O_RETURN_IF_ERROR(communicator_->AllGather(mine, bytes, w_.logit_pieces));
  const float* piece = w_.logit_pieces;
  for (int rank = 0; rank < shard_.size; ++rank) {
    const Range range = width(rank);
    const int64_t row_bytes = range.size() * sizeof(float);
    backend_->CopyRows(piece, row_bytes, whole.At(0, range.begin),
                       whole.stride * sizeof(float), row_bytes, rows);
    piece += rows * range.size();
  }
  return absl::OkStatus();
}

void Runner::DownloadResults(absl::Span<OpenSequence* const> sequences,
                             Pending* step) {
  RowResult* to = ResultsOf(step->ring) + step->emitted.size();
  for (const OpenSequence* s : sequences) {
    step->emitted.push_back(s == nullptr ? 0 : s->spec.id);
  }
  backend_->Download(w_.results, sequences.size() * sizeof(RowResult), to);
}

absl::Status Runner::ReportLogits(absl::Span<OpenSequence* const> rows,
                                  Pending* step) {
  const Matrix whole = WholeLogits(static_cast<int64_t>(rows.size()));
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r] == nullptr || !rows[r]->spec.logits) continue;
    RowResult ran;
    LogitRows out{rows[r]->spec.id, rows[r]->position(), {}};
    out.rows.resize(config_.vocab_size);
    H2O_RETURN_IF_ERROR(backend_->Synchronize());
    backend_->Download(whole.At(r), out.rows.size() * sizeof(float),
                       out.rows.data());
    backend_->Download(w_.results + r, sizeof(ran), &ran);
    H2O_RETURN_IF_ERROR(backend_->Synchronize());
    if (ran.token >= 0) step->result.logits.push_back(std::move(out));
  }
  return absl::OkStatus();
}

absl::Status Runner::ReportPromptLogits(const OpenSequence& sequence,
                                        int64_t begin, Pending* step) {
  // All but the last row, which is reported with the first token.
  LogitRows out{sequence.spec.id, 0, {}};
  const int64_t rows = sequence.prompt_length() - 1;
  const Matrix features = forward_->Features(begin + rows + 1);
  for (int64_t at = 0; at < rows; at += max_rows_) {
    const int64_t n = std::min(max_rows_, rows - at);
    H2O_RETURN_IF_ERROR(
        GatherLogits(forward_->Logits(features.Rows(begin + at, n))));
    const Matrix whole = WholeLogits(n);
    H2O_RETURN_IF_ERROR(backend_->Synchronize());
    out.rows.resize((at + n) * config_.vocab_size);
    for (int64_t r = 0; r < n; ++r) {
      backend_->Download(whole.At(r), config_.vocab_size * sizeof(float),
                         out.rows.data() + (at + r) * config_.vocab_size);
    }
    H2O_RETURN_IF_ERROR(backend_->Synchronize());
  }
  if (!out.rows.empty()) step->result.logits.push_back(std::move(out));
  return absl::OkStatus();
}

absl::Status Runner::TracePrompt(const OpenSequence& sequence, Pending* step) {
  const int n = num_local_heads();
  const int stride = config_.max_positions;
  std::vector<KvHead> heads(n);
  std::vector<uint16_t> stored(int64_t{n} * stride);
  H2O_RETURN_IF_ERROR(backend_->Synchronize());
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    const KvHead* of_layer = cache_->Heads(sequence.spec.id) + layer * n;
    backend_->StoredPositions(of_layer, n, cache_->pool(), stride, w_.stored);
    backend_->Download(of_layer, n * sizeof(KvHead), heads.data());
    backend_->Download(w_.stored, stored.size() * sizeof(uint16_t),
                       stored.data());
    H2O_RETURN_IF_ERROR(backend_->Synchronize());
    for (int h = 0; h < n; ++h) {
      HeadTrace trace;
      trace.sequence_id = sequence.spec.id;
      trace.layer = layer;
      trace.head = static_cast<int32_t>(shard_.heads.begin) + h;
      const uint16_t* first = stored.data() + int64_t{h} * stride;
      trace.kept.assign(first, first + heads[h].num_slots);
      std::sort(trace.kept.begin(), trace.kept.end());
      step->result.trace.push_back(std::move(trace));
    }
  }
  return absl::OkStatus();
}

absl::Status Runner::TraceStep(absl::Span<OpenSequence* const> rows,
                               int64_t padded, Pending* step) {
  const int n = num_local_heads();
  std::vector<int32_t> evicted(config_.num_layers * padded * n);
  std::vector<int32_t> positions(rows.size());
  H2O_RETURN_IF_ERROR(backend_->Synchronize());
  backend_->Download(w_.evicted, evicted.size() * sizeof(int32_t),
                     evicted.data());
  backend_->Download(w_.positions, positions.size() * sizeof(int32_t),
                     positions.data());
  H2O_RETURN_IF_ERROR(backend_->Synchronize());
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    for (size_t r = 0; r < rows.size(); ++r) {
      if (!rows[r]->spec.trace || positions[r] < 0) continue;
      for (int h = 0; h < n; ++h) {
        HeadTrace trace;
        trace.sequence_id = rows[r]->spec.id;
        trace.layer = layer;
        trace.head = static_cast<int32_t>(shard_.heads.begin) + h;
        trace.pos = positions[r];
        trace.evicted = evicted[(layer * padded + r) * n + h];
        step->result.trace.push_back(std::move(trace));
      }
    }
  }
  return absl::OkStatus();
}

uint64_t Runner::Checksum(uint64_t step) const {
  Fnv1a hash;
  hash.AddNumber(step);
  for (const auto& [id, o] : observed_) {
    hash.AddNumber(id).AddNumber(o.length).AddNumber(o.last_token);
  }
  return hash.value();
}

}  // namespace

absl::StatusOr<StepResult> ShardRunner::Run(const StepPlan& plan) {
  H2O_RETURN_IF_ERROR(Launch(plan));
  return Collect();
}

int32_t DecodeSlotClass(int32_t slots, int64_t max_positions) {
  constexpr int32_t kSmallest = 256;
  const auto least = static_cast<uint32_t>(std::max(slots, kSmallest));
  return static_cast<int32_t>(std::min<int64_t>(
      std::bit_ceil(least), CeilDiv(max_positions, kPageSlots) * kPageSlots));
}

absl::StatusOr<std::unique_ptr<ShardRunner>> ShardRunner::Create(
    const ShardOptions& options, std::unique_ptr<Communicator> communicator,
    const Clock* clock, std::function<void(double)> progress) {
  auto runner = std::make_unique<Runner>(options, std::move(communicator));
  H2O_RETURN_IF_ERROR(runner->Init(options, clock, std::move(progress)));
  return runner;
}

}  // namespace h2o
