#include "worker/shard_runner.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kv/kv_cache.h"
#include "model/safetensors.h"
#include "worker/forward.h"
#include "worker/shard_weights.h"

namespace h2o {
namespace {

// One step of FNV-1a over 64 bits: the state checksum.
void Mix(uint64_t value, uint64_t* hash) {
  for (int byte = 0; byte < 8; ++byte) {
    *hash = (*hash ^ ((value >> (8 * byte)) & 0xff)) * 0x100000001b3u;
  }
}

// Bytes this process could still take, from /proc/meminfo; 0 if unknown.
int64_t AvailableMemoryBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    file.ignore(1 << 10, '\n');
  }
  return 0;
}

struct OpenSequence {
  SequenceSpec spec;
  bool prefilled = false;
  bool finished = false;
  int32_t num_generated = 0;
  int32_t last_token = 0;

  int32_t prompt_length() const {
    return static_cast<int32_t>(spec.prompt.size());
  }
  // Position of the token that the next decode step processes.
  int32_t next_position() const { return prompt_length() + num_generated - 1; }
  bool forced() const { return !spec.forced.empty(); }
  bool draws() const { return spec.sampling.temperature > 0 && !forced(); }
};

// The hidden states of a prefill between two of its slices.
struct PausedPrefill {
  uint64_t sequence_id = 0;
  int32_t next_layer = 0;  // 0: none is paused
};

class CpuShardRunner final : public ShardRunner {
 public:
  CpuShardRunner(const ShardOptions& options,
                 std::unique_ptr<Communicator> communicator, const Clock* clock)
      : config_(options.config),
        shard_(config_.Shard(options.rank, options.size)),
        max_sequences_(options.max_sequences),
        communicator_(std::move(communicator)),
        clock_(clock) {}

  absl::Status Init(const ShardOptions& options,
                    std::function<void(double)> progress);

  absl::StatusOr<StepResult> Run(const StepPlan& plan) override;
  const KvGeometry& geometry() const override { return cache_->geometry(); }
  int64_t num_pages() const override { return cache_->num_pages(); }
  int64_t free_pages() const override { return cache_->free_pages(); }
  MemoryPlan memory_plan() const override { return memory_plan_; }
  std::string fingerprint() const override { return fingerprint_; }
  void Abort(absl::Status reason) override {
    communicator_->Abort(std::move(reason));
  }

 private:
  int64_t hidden_stride() const { return Forward::HiddenStride(config_); }
  int num_local_heads() const { return static_cast<int>(shard_.heads.size()); }

  absl::StatusOr<int64_t> PoolPages(const ShardOptions& options,
                                    const KvGeometry& geometry) const;
  absl::StatusOr<OpenSequence*> Find(uint64_t id);
  absl::Status Admit(const SequenceSpec& spec);
  absl::Status Retire(uint64_t id);
  absl::Status Prefill(const PrefillSlice& slice, StepResult* result);
  absl::Status Decode(const std::vector<uint64_t>& ids, StepResult* result);
  absl::Status RunPrefillLayer(int layer, uint64_t id, Matrix x);
  absl::Status RunDecodeLayer(int layer, absl::Span<OpenSequence* const> rows,
                              absl::Span<const int32_t> positions, Matrix x,
                              StepResult* result);

  // Gives each row its next token; x holds their last hidden states.
  absl::Status EmitTokens(absl::Span<OpenSequence* const> rows, Matrix x,
                          StepResult* result);
  absl::Status EmitPromptLogits(const OpenSequence& sequence, Matrix x,
                                StepResult* result);
  // best[r]: the greatest of all ranks' logits.
  absl::Status GatherBest(Matrix logits, std::vector<BestLogit>* best);
  // Whole rows, [rows, vocab_size], valid until the next call.
  absl::StatusOr<Matrix> GatherLogits(Matrix logits,
                                      absl::Span<const int64_t> rows);
  uint64_t Checksum() const;

  const OptConfig config_;
  const ShardSpec shard_;
  const int max_sequences_;
  const std::unique_ptr<Communicator> communicator_;
  const Clock* const clock_;
  std::string fingerprint_;
  MemoryPlan memory_plan_;
  ShardWeights weights_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<KvCache> cache_;

  Buffer prefill_hidden_;         // [max_positions, hidden stride]
  Buffer decode_hidden_;          // [max_sequences, hidden stride]
  Buffer logit_pieces_;           // of the ranks, then whole rows
  std::vector<int32_t> evicted_;  // [max_sequences, local heads]

  uint64_t last_step_ = 0;
  std::map<uint64_t, OpenSequence> sequences_;
  PausedPrefill paused_;
};

absl::Status CpuShardRunner::Init(const ShardOptions& options,
                                  std::function<void(double)> progress) {
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(config_, options.size));
  if (options.max_sequences < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max-sequences ", options.max_sequences, "; it must be at least 1"));
  }
  H2O_ASSIGN_OR_RETURN(KvGeometry geometry, GeometryOf(config_, options.model));
  H2O_ASSIGN_OR_RETURN(DType dtype, WeightDType(options.model));

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
  H2O_ASSIGN_OR_RETURN(backend_, NewCpuBackend(backend));

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
                        options.num_threads, std::move(progress)}));
  H2O_ASSIGN_OR_RETURN(
      forward_,
      Forward::Create(config_, shard_, weights_, backend_.get(),
                      communicator_.get(), backend.max_rows, max_sequences_));

  const int64_t row_bytes = hidden_stride() * sizeof(float);
  const int64_t prefill_bytes = config_.max_positions * row_bytes;
  const int64_t decode_bytes = max_sequences_ * row_bytes;
  const int64_t piece_bytes =
      2 * int64_t{max_sequences_} * AlignedStride(config_.vocab_size) * 4;
  H2O_ASSIGN_OR_RETURN(prefill_hidden_, Buffer::Allocate(prefill_bytes));
  H2O_ASSIGN_OR_RETURN(decode_hidden_, Buffer::Allocate(decode_bytes));
  H2O_ASSIGN_OR_RETURN(logit_pieces_, Buffer::Allocate(piece_bytes));
  evicted_.resize(max_sequences_ * num_local_heads());
  memory_plan_.weights = weights_.memory.bytes();
  memory_plan_.workspace =
      CpuBackendScratchBytes(backend) +
      Forward::WorkspaceBytes(config_, shard_, backend.max_rows,
                              max_sequences_) +
      prefill_bytes + decode_bytes + piece_bytes;

  H2O_ASSIGN_OR_RETURN(int64_t pages, PoolPages(options, geometry));
  memory_plan_.kv_pool = pages * geometry.PageBytes();
  H2O_ASSIGN_OR_RETURN(cache_, KvCache::Create(geometry, shard_.heads, pages));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CpuShardRunner::PoolPages(
    const ShardOptions& options, const KvGeometry& geometry) const {
  const int64_t per_token_run = geometry.num_layers * shard_.heads.size();
  if (options.kv_pool_bytes > 0) {
    const int64_t pages = options.kv_pool_bytes / geometry.PageBytes();
    if (pages < per_token_run) {
      return absl::InvalidArgumentError(absl::StrCat(
          "kv-pool-bytes ", options.kv_pool_bytes, " holds ", pages,
          " pages; the smallest sequence needs ", per_token_run, " (",
          geometry.num_layers, " layers x ", shard_.heads.size(), " heads), ",
          per_token_run * geometry.PageBytes(), " bytes"));
    }
    return pages;
  }
  if (!(options.memory_share > 0 && options.memory_share <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "memory-share ", options.memory_share, "; it must be in (0, 1]"));
  }
  const int64_t left = AvailableMemoryBytes() - memory_plan_.workspace;
  const int64_t bytes =
      static_cast<int64_t>(static_cast<double>(std::max<int64_t>(left, 0)) *
                           options.memory_share / options.local_ranks);
  const int64_t most = int64_t{max_sequences_} * per_token_run *
                       CeilDiv(config_.max_positions, kPageSlots);
  const int64_t pages = std::min(bytes / geometry.PageBytes(), most);
  if (pages < per_token_run) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory is left for a KV pool: ", bytes,
                     " bytes, and the smallest "
                     "sequence needs ",
                     per_token_run * geometry.PageBytes()));
  }
  return pages;
}

absl::StatusOr<OpenSequence*> CpuShardRunner::Find(uint64_t id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) {
    return absl::InternalError(
        absl::StrCat("the plan names sequence ", id, ", which is not open"));
  }
  return &it->second;
}

absl::StatusOr<StepResult> CpuShardRunner::Run(const StepPlan& plan) {
  if (plan.step != last_step_ + 1) {
    return absl::InternalError(absl::StrCat("plan ", plan.step, " follows ",
                                            last_step_,
                                            "; ranks run in lockstep"));
  }
  last_step_ = plan.step;
  StepResult result;
  result.step = plan.step;
  for (uint64_t id : plan.retire) H2O_RETURN_IF_ERROR(Retire(id));
  for (const SequenceSpec& spec : plan.admit) H2O_RETURN_IF_ERROR(Admit(spec));

  const double start = clock_->Now();
  for (const PrefillSlice& slice : plan.prefill) {
    H2O_RETURN_IF_ERROR(Prefill(slice, &result));
  }
  const double middle = clock_->Now();
  H2O_RETURN_IF_ERROR(Decode(plan.decode, &result));
  result.prefill_seconds = middle - start;
  result.decode_seconds = clock_->Now() - middle;
  result.checksum = Checksum();
  return result;
}

absl::Status CpuShardRunner::Admit(const SequenceSpec& spec) {
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
      stored > config_.max_positions) {
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
  sequences_[spec.id].spec = spec;
  return absl::OkStatus();
}

absl::Status CpuShardRunner::Retire(uint64_t id) {
  H2O_RETURN_IF_ERROR(Find(id).status());
  if (paused_.sequence_id == id) paused_ = {};
  cache_->Close(id);
  sequences_.erase(id);
  return absl::OkStatus();
}

absl::Status CpuShardRunner::Prefill(const PrefillSlice& slice,
                                     StepResult* result) {
  H2O_ASSIGN_OR_RETURN(OpenSequence * sequence, Find(slice.sequence_id));
  const bool resumes = paused_.next_layer > 0;
  if (sequence->prefilled || slice.layer_begin != paused_.next_layer ||
      (resumes && paused_.sequence_id != slice.sequence_id) ||
      slice.layer_end <= slice.layer_begin ||
      slice.layer_end > config_.num_layers) {
    return absl::InternalError(absl::StrCat(
        "prefill of layers ", slice.layer_begin, " to ", slice.layer_end,
        " of sequence ", slice.sequence_id, " does not follow"));
  }
  const std::vector<int32_t>& prompt = sequence->spec.prompt;
  const Matrix x{reinterpret_cast<float*>(prefill_hidden_.data()),
                 sequence->prompt_length(), config_.hidden_size,
                 hidden_stride()};
  if (slice.layer_begin == 0) {
    std::vector<int32_t> positions(prompt.size());
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = i;
    H2O_RETURN_IF_ERROR(forward_->Embed(prompt, positions, x));
  }
  for (int layer = slice.layer_begin; layer < slice.layer_end; ++layer) {
    const double start = clock_->Now();
    H2O_RETURN_IF_ERROR(RunPrefillLayer(layer, slice.sequence_id, x));
    result->slowest_layer_seconds =
        std::max(result->slowest_layer_seconds, clock_->Now() - start);
  }
  if (slice.layer_end < config_.num_layers) {
    paused_ = {slice.sequence_id, slice.layer_end};
    return absl::OkStatus();
  }
  paused_ = {};
  sequence->prefilled = true;
  if (sequence->spec.trace) {
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      const KvHead* heads = cache_->Heads(slice.sequence_id, layer);
      for (int h = 0; h < num_local_heads(); ++h) {
        HeadTrace trace;
        trace.sequence_id = slice.sequence_id;
        trace.layer = layer;
        trace.head = static_cast<int32_t>(shard_.heads.begin) + h;
        trace.kept = cache_->StoredPositions(heads[h]);
        result->trace.push_back(std::move(trace));
      }
    }
  }
  if (sequence->spec.logits) {
    return EmitPromptLogits(*sequence, x, result);
  }
  return EmitTokens({&sequence, 1}, x.Rows(x.rows - 1, 1), result);
}

absl::Status CpuShardRunner::RunPrefillLayer(int layer, uint64_t id, Matrix x) {
  return forward_->Layer(layer, x, [&](Matrix qkv, Matrix out) {
    backend_->PrefillAttention(
        qkv, {cache_->Heads(id, layer), size_t(num_local_heads())},
        cache_->pool(), out);
  });
}

absl::Status CpuShardRunner::Decode(const std::vector<uint64_t>& ids,
                                    StepResult* result) {
  // A sequence that finished in the step before is still in this plan, which
  // was made before that was known.
  std::vector<OpenSequence*> rows;
  std::vector<int32_t> tokens, positions;
  for (uint64_t id : ids) {
    H2O_ASSIGN_OR_RETURN(OpenSequence * sequence, Find(id));
    if (!sequence->prefilled) {
      return absl::InternalError(
          absl::StrCat("decode of sequence ", id, " before its prefill"));
    }
    if (sequence->finished) continue;
    rows.push_back(sequence);
    tokens.push_back(sequence->last_token);
    positions.push_back(sequence->next_position());
  }
  if (rows.empty()) return absl::OkStatus();

  const Matrix x{reinterpret_cast<float*>(decode_hidden_.data()),
                 static_cast<int64_t>(rows.size()), config_.hidden_size,
                 hidden_stride()};
  H2O_RETURN_IF_ERROR(forward_->Embed(tokens, positions, x));
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    H2O_RETURN_IF_ERROR(RunDecodeLayer(layer, rows, positions, x, result));
  }
  return EmitTokens(rows, x, result);
}

absl::Status CpuShardRunner::RunDecodeLayer(
    int layer, absl::Span<OpenSequence* const> rows,
    absl::Span<const int32_t> positions, Matrix x, StepResult* result) {
  std::vector<KvHead*> heads;
  heads.reserve(rows.size());
  for (const OpenSequence* row : rows) {
    heads.push_back(cache_->Heads(row->spec.id, layer));
  }
  const int n = num_local_heads();
  const absl::Span<int32_t> evicted(evicted_.data(), rows.size() * n);
  H2O_RETURN_IF_ERROR(forward_->Layer(layer, x, [&](Matrix qkv, Matrix out) {
    backend_->DecodeAttention(qkv, heads, n, positions, cache_->pool(), out,
                              evicted);
  }));
  for (size_t r = 0; r < rows.size(); ++r) {
    if (!rows[r]->spec.trace) continue;
    for (int h = 0; h < n; ++h) {
      HeadTrace trace;
      trace.sequence_id = rows[r]->spec.id;
      trace.layer = layer;
      trace.head = static_cast<int32_t>(shard_.heads.begin) + h;
      trace.pos = positions[r];
      trace.evicted = evicted[r * n + h];
      result->trace.push_back(std::move(trace));
    }
  }
  return absl::OkStatus();
}

absl::Status CpuShardRunner::GatherBest(Matrix logits,
                                        std::vector<BestLogit>* best) {
  const int size = communicator_->size();
  const int64_t rows = logits.rows;
  best->resize(rows);
  backend_->ArgMax(logits, static_cast<int32_t>(shard_.vocabulary.begin),
                   absl::MakeSpan(*best));
  if (size == 1) return absl::OkStatus();
  std::vector<BestLogit> all(size * rows);
  const std::vector<int64_t> bytes(size, rows * sizeof(BestLogit));
  H2O_RETURN_IF_ERROR(
      communicator_->AllGather(best->data(), bytes, all.data()));
  // Ranks own ascending tokens, so the first of equal logits is the lowest.
  for (int64_t r = 0; r < rows; ++r) {
    (*best)[r] = all[r];
    for (int rank = 1; rank < size; ++rank) {
      const BestLogit& other = all[rank * rows + r];
      if (other.logit > (*best)[r].logit) (*best)[r] = other;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Matrix> CpuShardRunner::GatherLogits(
    Matrix logits, absl::Span<const int64_t> rows) {
  const int64_t n = static_cast<int64_t>(rows.size());
  const int64_t stride = AlignedStride(config_.vocab_size);
  float* pieces = reinterpret_cast<float*>(logit_pieces_.data());
  Matrix whole{pieces + max_sequences_ * stride, n, config_.vocab_size, stride};
  const int size = communicator_->size();
  std::vector<int64_t> bytes(size);
  float* mine = pieces;
  for (int rank = 0; rank < size; ++rank) {
    const int64_t width = ShardOf(config_.vocab_size, rank, size).size();
    if (rank < shard_.rank) mine += n * width;
    bytes[rank] = n * width * sizeof(float);
  }
  const int64_t local = shard_.vocabulary.size();
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(logits.Row(rows[i]), local, mine + i * local);
  }
  H2O_RETURN_IF_ERROR(communicator_->AllGather(mine, bytes, pieces));
  const float* piece = pieces;
  for (int rank = 0; rank < size; ++rank) {
    const Range range = ShardOf(config_.vocab_size, rank, size);
    for (int64_t i = 0; i < n; ++i, piece += range.size()) {
      std::copy_n(piece, range.size(), whole.Row(i) + range.begin);
    }
  }
  return whole;
}

absl::Status CpuShardRunner::EmitTokens(absl::Span<OpenSequence* const> rows,
                                        Matrix x, StepResult* result) {
  const Matrix logits = forward_->Logits(x);
  std::vector<int64_t> drawn;  // rows that draw, and rows that report logits
  std::vector<Draw> draws;
  std::vector<int64_t> reported;
  for (size_t r = 0; r < rows.size(); ++r) {
    const OpenSequence& sequence = *rows[r];
    if (sequence.spec.logits) reported.push_back(r);
    if (!sequence.draws()) continue;
    drawn.push_back(r);
    draws.push_back({sequence.spec.sampling,
                     static_cast<uint64_t>(sequence.num_generated)});
  }
  std::vector<BestLogit> best(rows.size());
  if (drawn.size() < rows.size()) {
    H2O_RETURN_IF_ERROR(GatherBest(logits, &best));
  }
  if (!drawn.empty()) {
    H2O_ASSIGN_OR_RETURN(Matrix whole, GatherLogits(logits, drawn));
    std::vector<int32_t> tokens(drawn.size());
    backend_->Sample(whole, draws, absl::MakeSpan(tokens));
    for (size_t i = 0; i < drawn.size(); ++i) best[drawn[i]].token = tokens[i];
  }
  if (!reported.empty()) {
    H2O_ASSIGN_OR_RETURN(Matrix whole, GatherLogits(logits, reported));
    for (size_t i = 0; i < reported.size(); ++i) {
      const OpenSequence& sequence = *rows[reported[i]];
      result->logits.push_back(
          {sequence.spec.id,
           sequence.next_position(),
           {whole.Row(i), whole.Row(i) + config_.vocab_size}});
    }
  }

  for (size_t r = 0; r < rows.size(); ++r) {
    OpenSequence& sequence = *rows[r];
    int32_t token = best[r].token;
    if (sequence.num_generated <
        static_cast<int>(sequence.spec.forced.size())) {
      token = sequence.spec.forced[sequence.num_generated];
    }
    sequence.last_token = token;
    ++sequence.num_generated;
    FinishReason finish = FinishReason::kNone;
    if (token == config_.eos_token && !sequence.spec.ignore_eos) {
      finish = FinishReason::kStop;
    } else if (sequence.num_generated == sequence.spec.max_tokens) {
      finish = FinishReason::kLength;
    }
    sequence.finished = finish != FinishReason::kNone;
    result->tokens.push_back({sequence.spec.id, token, finish});
  }
  return absl::OkStatus();
}

absl::Status CpuShardRunner::EmitPromptLogits(const OpenSequence& sequence,
                                              Matrix x, StepResult* result) {
  // All but the last row, which EmitTokens reports; logits overwrite x.
  LogitRows out{sequence.spec.id, 0, {}};
  for (int64_t begin = 0; begin + 1 < x.rows; begin += max_sequences_) {
    const int64_t n = std::min<int64_t>(max_sequences_, x.rows - 1 - begin);
    std::vector<int64_t> rows(n);
    for (int64_t i = 0; i < n; ++i) rows[i] = i;
    H2O_ASSIGN_OR_RETURN(
        Matrix whole, GatherLogits(forward_->Logits(x.Rows(begin, n)), rows));
    for (int64_t i = 0; i < n; ++i) {
      out.rows.insert(out.rows.end(), whole.Row(i),
                      whole.Row(i) + config_.vocab_size);
    }
  }
  if (!out.rows.empty()) result->logits.push_back(std::move(out));
  OpenSequence* row = &sequences_.at(sequence.spec.id);
  return EmitTokens({&row, 1}, x.Rows(x.rows - 1, 1), result);
}

uint64_t CpuShardRunner::Checksum() const {
  uint64_t hash = 0xcbf29ce484222325u;
  Mix(last_step_, &hash);
  for (const auto& [id, sequence] : sequences_) {
    Mix(id, &hash);
    Mix(sequence.prompt_length() + sequence.num_generated, &hash);
    Mix(sequence.last_token, &hash);
  }
  return hash;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShardRunner>> ShardRunner::Create(
    const ShardOptions& options, std::unique_ptr<Communicator> communicator,
    const Clock* clock, std::function<void(double)> progress) {
  auto runner =
      std::make_unique<CpuShardRunner>(options, std::move(communicator), clock);
  H2O_RETURN_IF_ERROR(runner->Init(options, std::move(progress)));
  return runner;
}

}  // namespace h2o
