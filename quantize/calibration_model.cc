// One layer's weights and one sequence's cache, around the forward pass of a
// rank that is alone.
#include "quantize/calibration_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/kv_policy.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "worker/shard_weights.h"

namespace h2o {
namespace {

constexpr uint64_t kSequence = 1;

ModelConfig OneLayerOf(ModelConfig config) {
  config.num_layers = 1;
  return config;
}

int64_t LongestOf(const TokenSequences& text) {
  size_t longest = 0;
  for (const auto& tokens : text) longest = std::max(longest, tokens.size());
  return static_cast<int64_t>(longest);
}

absl::StatusOr<std::unique_ptr<Backend>> NewBackend(const ModelConfig& config,
                                                    int64_t rows,
                                                    int num_threads) {
  CpuBackendOptions options;
  options.num_threads = num_threads;
  options.max_prompt = rows;
  options.max_slots = rows;
  options.max_rows = rows;
  options.max_inputs =
      std::max<int64_t>({config.hidden_size, config.embed_dim, config.ffn_dim,
                         config.qkv.query_columns()});
  options.max_heads = config.qkv.heads;
  options.vocab_size = config.vocab_size;
  options.head_dim = config.qkv.head_dim;
  options.head_padding = config.head_padding;
  return NewCpuBackend(options);
}

absl::StatusOr<std::unique_ptr<KvCache>> NewCache(const ModelConfig& config,
                                                  int64_t positions,
                                                  Backend* backend) {
  KvCacheOptions options;
  options.geometry = {
      1, config.qkv.kv_heads, config.qkv.head_dim, {KvFormat()}};
  options.heads = {0, config.qkv.kv_heads};
  options.max_sequences = 1;
  options.max_positions = positions;
  options.num_slabs = options.geometry.SlabsNeeded(
      {KvPolicyName::kFull, {SlotsFor(KvPolicyName::kFull, positions)}},
      positions, options.heads);
  return KvCache::Create(options, backend);
}

// Linux overcommits memory, so the need is compared with what is free before
// anything is allocated.
absl::Status CheckMemory(const LayerMap& layer, int64_t hidden_bytes,
                         int64_t free_bytes) {
  constexpr int64_t kNumber = sizeof(float);
  int64_t moments = 0, weights = 0;
  for (const LayerProduct product : kLayerProducts) {
    const Slices& slices = WeightsOf(layer, product);
    moments += slices[0].full_columns * slices[0].full_columns * kNumber;
    for (const TensorSlice& slice : slices) {
      weights += 2 * slice.size() * kNumber;  // as they were, and rounded
    }
  }
  const int64_t needed = hidden_bytes + moments + weights;
  if (free_bytes <= 0 || needed <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "calibration takes ", needed, " bytes: ", hidden_bytes,
      " for the hidden states of the text, ", moments,
      " for the moments of a layer's inputs and ", weights,
      " for its weights; ", free_bytes,
      " are free: use fewer --calibrate-tokens, or round without --calibrate"));
}

bool AllFinite(const UpperMatrix& moments) {
  for (int64_t i = 0; i < moments.size(); ++i) {
    if (!std::isfinite(moments.Row(i)[i])) return false;
  }
  return true;
}

}  // namespace

CalibrationModel::CalibrationModel(const SourceModel& source,
                                   TokenSequences text, int num_threads)
    : source_(source),
      config_(OneLayerOf(source.config)),
      text_(std::move(text)),
      num_threads_(num_threads),
      shard_(config_.Shard(0, 1)) {}

absl::StatusOr<std::unique_ptr<CalibrationModel>> CalibrationModel::Create(
    const SourceModel& source, TokenSequences text, int num_threads) {
  std::unique_ptr<CalibrationModel> model(
      new CalibrationModel(source, std::move(text), num_threads));
  H2O_RETURN_IF_ERROR(model->Prepare());
  H2O_RETURN_IF_ERROR(model->Embed());
  return model;
}

absl::Status CalibrationModel::Prepare() {
  const int64_t longest = LongestOf(text_);
  int64_t tokens = 0;
  for (const auto& sequence : text_) {
    tokens += static_cast<int64_t>(sequence.size());
  }
  const int64_t row_bytes =
      AlignedStride(config_.hidden_size) * int64_t{sizeof(float)};
  H2O_ASSIGN_OR_RETURN(backend_, NewBackend(config_, longest, num_threads_));
  H2O_RETURN_IF_ERROR(CheckMemory(source_.map.layers[0],
                                  (tokens + longest) * row_bytes,
                                  backend_->FreeBytes()));
  H2O_ASSIGN_OR_RETURN(cache_, NewCache(config_, longest, backend_.get()));
  H2O_ASSIGN_OR_RETURN(
      forward_, Forward::Create(config_, shard_, weights_, backend_.get(),
                                &alone_, longest, 1));
  H2O_ASSIGN_OR_RETURN(hidden_, backend_->Allocate(tokens * row_bytes));
  H2O_ASSIGN_OR_RETURN(scratch_, backend_->Allocate(longest * row_bytes));
  return absl::OkStatus();
}

absl::Status CalibrationModel::Load(const WeightMap& part) {
  weights_ = {};  // gives its memory back first
  H2O_ASSIGN_OR_RETURN(
      weights_, LoadMappedWeights(part, config_.norm_epsilon, 0, 1,
                                  {.checkpoint = source_.checkpoint.get(),
                                   .num_threads = num_threads_},
                                  backend_.get()));
  return absl::OkStatus();
}

absl::Status CalibrationModel::Embed() {
  WeightMap part;
  part.token_embedding = source_.map.token_embedding;
  part.position_embedding = source_.map.position_embedding;
  part.project_in = source_.map.project_in;
  H2O_RETURN_IF_ERROR(Load(part));
  std::vector<int32_t> positions(LongestOf(text_));
  std::iota(positions.begin(), positions.end(), 0);
  for (size_t i = 0; i < text_.size(); ++i) {
    H2O_RETURN_IF_ERROR(
        forward_->Embed(text_[i].data(), positions.data(), Hidden(i)));
  }
  return absl::OkStatus();
}

Matrix CalibrationModel::Hidden(size_t i) const {
  const Matrix all = {hidden_.data(), 0, config_.hidden_size,
                      AlignedStride(config_.hidden_size)};
  // All sequences but the last are equally long.
  return all.Rows(static_cast<int64_t>(i * text_[0].size()),
                  static_cast<int64_t>(text_[i].size()));
}

absl::Status CalibrationModel::BeginLayer(int layer) {
  WeightMap part;
  part.layers = {source_.map.layers[layer]};
  layer_ = layer;
  return Load(part);
}

LinearWeights& CalibrationModel::Of(LayerProduct product) {
  LayerWeights& layer = weights_.layers[0];
  switch (product) {
    case LayerProduct::kQkv:
      return layer.qkv;
    case LayerProduct::kOut:
      return layer.out;
    case LayerProduct::kFc1:
      return layer.fc1;
    default:
      return layer.fc2;
  }
}

void CalibrationModel::Replace(LayerProduct product, Matrix rounded) {
  StoredMatrix& weight = Of(product).weight;
  weight = {rounded.data, WeightFormat::kFloat32, rounded.rows, rounded.columns,
            rounded.stride};
}

absl::StatusOr<std::vector<UpperMatrix>> CalibrationModel::Moments(
    ThreadPool* pool) {
  std::vector<UpperMatrix> moments;
  for (const LayerProduct product : kLayerProducts) {
    H2O_ASSIGN_OR_RETURN(moments.emplace_back(),
                         UpperMatrix::Create(Of(product).weight.columns));
  }
  forward_->SeeInputs([&](const LinearWeights& weights, Matrix input) {
    for (size_t i = 0; i < moments.size(); ++i) {
      if (&weights != &Of(kLayerProducts[i])) continue;
      AddMoments(input, &moments[i], pool);
    }
  });
  const absl::Status status = RunLayer([](size_t, Matrix) {});
  forward_->SeeInputs(nullptr);
  H2O_RETURN_IF_ERROR(status);
  if (!std::all_of(moments.begin(), moments.end(), AllFinite)) {
    return absl::DataLossError(
        absl::StrCat("layer ", layer_,
                     ": the text makes inputs of a product that are not finite "
                     "(NaN or infinity)"));
  }
  return moments;
}

absl::Status CalibrationModel::EndLayer() {
  return RunLayer([&](size_t i, Matrix x) {
    std::memcpy(Hidden(i).data, x.data, x.bytes());
  });
}

absl::Status CalibrationModel::RunLayer(
    absl::FunctionRef<void(size_t, Matrix)> fn) {
  for (size_t i = 0; i < text_.size(); ++i) {
    Matrix x = Hidden(i);
    std::memcpy(scratch_.data(), x.data, x.bytes());
    x.data = scratch_.data();
    const int32_t starts[] = {0, static_cast<int32_t>(x.rows)};
    H2O_RETURN_IF_ERROR(cache_->Open(
        kSequence,
        {KvPolicyName::kFull, {SlotsFor(KvPolicyName::kFull, starts[1])}},
        x.rows));
    KvHead* const heads = cache_->Heads(kSequence);
    PromptBatch batch;
    batch.starts = starts;
    batch.device_starts = starts;
    batch.heads = &heads;
    batch.scored = false;
    H2O_RETURN_IF_ERROR(forward_->Layers(
        0, 1, x,
        [&](int layer, Matrix qkv, Matrix out) {
          backend_->PrefillAttention(qkv, batch, layer, cache_->pool(), out);
        },
        {}));
    cache_->Close(kSequence);
    fn(i, x);
  }
  return absl::OkStatus();
}

}  // namespace h2o
