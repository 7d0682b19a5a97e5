// Copies the slices of a WeightMap from the checkpoint to the device, or fills
// them with random numbers.
#include "worker/shard_weights.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/checkpoint_map.h"
#include "model/family.h"
#include "model/weight_map.h"
#include "worker/coded_rows.h"
#include "worker/slice_source.h"

namespace h2o {
namespace {

constexpr int64_t kAlignmentBytes = 256;

// Walks over all weights, twice with the same code: without memory it adds up
// the bytes, with memory it fills them.
class Loader {
 public:
  Loader(const WeightMap& map, float norm_epsilon, const WeightOptions& options,
         Backend* backend, SliceSource* source, std::byte* memory,
         int64_t total_bytes)
      : map_(map),
        norm_epsilon_(norm_epsilon),
        options_(options),
        backend_(backend),
        source_(source),
        memory_(memory),
        total_bytes_(total_bytes) {}

  int64_t used_bytes() const { return used_bytes_; }

  absl::Status Load(ShardWeights* w) {
    H2O_RETURN_IF_ERROR(
        LoadMatrix(map_.token_embedding.weight, &w->token_embedding));
    H2O_RETURN_IF_ERROR(
        LoadMatrix(map_.position_embedding.weight, &w->position_embedding));
    H2O_RETURN_IF_ERROR(LoadLinear(map_.project_in, &w->project_in));
    H2O_RETURN_IF_ERROR(LoadLinear(map_.project_out, &w->project_out));
    w->layers.resize(map_.layers.size());
    for (size_t i = 0; i < map_.layers.size(); ++i) {
      H2O_RETURN_IF_ERROR(LoadLayer(map_.layers[i], &w->layers[i]));
    }
    H2O_RETURN_IF_ERROR(LoadNorm(map_.final_norm, &w->final_norm));
    H2O_RETURN_IF_ERROR(LoadLinear(map_.head, &w->head));
    if (map_.head.weight.empty()) w->head.weight = w->token_embedding;
    return absl::OkStatus();
  }

 private:
  bool measuring() const { return memory_ == nullptr; }

  absl::Status LoadLayer(const LayerMap& map, LayerWeights* w) {
    H2O_RETURN_IF_ERROR(LoadNarrow(map.qkv.weight, &w->qkv.weight));
    H2O_RETURN_IF_ERROR(LoadBias(map.qkv.bias, &w->qkv.bias));
    H2O_RETURN_IF_ERROR(LoadNarrow(map.out.weight, &w->out.weight));
    H2O_RETURN_IF_ERROR(LoadBias(map.out.bias, &w->out_bias));
    H2O_RETURN_IF_ERROR(LoadNarrow(map.fc1.weight, &w->fc1.weight));
    H2O_RETURN_IF_ERROR(LoadBias(map.fc1.bias, &w->fc1.bias));
    H2O_RETURN_IF_ERROR(LoadNarrow(map.fc2.weight, &w->fc2.weight));
    H2O_RETURN_IF_ERROR(LoadBias(map.fc2.bias, &w->fc2_bias));
    H2O_RETURN_IF_ERROR(LoadNorm(map.attention_norm, &w->attention_norm));
    return LoadNorm(map.ffn_norm, &w->ffn_norm);
  }

  absl::Status LoadLinear(const WeightSource& source, LinearWeights* out) {
    H2O_RETURN_IF_ERROR(LoadMatrix(source.weight, &out->weight));
    return LoadBias(source.bias, &out->bias);
  }

  absl::Status LoadBias(const Slices& slices, const void** out) {
    return LoadVector(slices, backend_->formats().biases, std::nullopt, out);
  }

  absl::Status LoadNorm(const WeightSource& source, LayerNormWeights* norm) {
    norm->epsilon = norm_epsilon_;
    H2O_RETURN_IF_ERROR(LoadNormPart(source.weight, 1, &norm->weight));
    return LoadNormPart(source.bias, 0, &norm->bias);
  }
  absl::Status LoadNormPart(const Slices& slices, float if_dummy,
                            const float** out) {
    const void* vector = nullptr;
    H2O_RETURN_IF_ERROR(LoadVector(slices, DType::kFloat32, if_dummy, &vector));
    *out = static_cast<const float*>(vector);
    return absl::OkStatus();
  }

  // Slices stacked on each other, rows padded with zeros to whole vectors.
  absl::Status LoadMatrix(const Slices& slices, StoredMatrix* out) {
    if (slices.empty()) return absl::OkStatus();
    H2O_ASSIGN_OR_RETURN(const DType dtype,
                         source_->StorageType(slices[0].name));
    *out = ShapeOf(slices, FormatOf(dtype));
    const int64_t row_bytes = out->row_bytes();
    std::byte* at = Take(out->rows * row_bytes);
    out->data = at;
    for (const TensorSlice& slice : slices) {
      H2O_RETURN_IF_ERROR(Fill(slice, dtype, row_bytes, std::nullopt, at));
      if (!measuring()) at += slice.num_rows() * row_bytes;
    }
    return absl::OkStatus();
  }

  static StoredMatrix ShapeOf(const Slices& slices, WeightFormat format) {
    StoredMatrix m;
    m.format = format;
    m.columns = slices[0].num_columns();
    m.stride = WeightStride(format, m.columns);
    for (const TensorSlice& slice : slices) m.rows += slice.num_rows();
    return m;
  }

  // The same as codes, where weights are.
  absl::Status LoadNarrow(const Slices& slices, StoredMatrix* out) {
    const WeightCoding& coding = options_.coding;
    if (IsPlain(coding.format)) return LoadMatrix(slices, out);
    *out = ShapeOf(slices, coding.format);
    out->group = coding.group;
    const int64_t scale_bytes = ScaleBytes(coding, out->columns);
    std::byte* const codes = Take(out->bytes());
    std::byte* const scales = Take(out->scale_bytes());
    out->data = codes;
    out->scales = scales;
    int64_t row = 0;
    for (const TensorSlice& slice : slices) {
      H2O_RETURN_IF_ERROR(source_->CheckForCodes(slice));
      if (!measuring()) {
        H2O_RETURN_IF_ERROR(source_->FillCodes(slice, out->row_bytes(),
                                               codes + row * out->row_bytes(),
                                               scales + row * scale_bytes));
      }
      row += slice.num_rows();
      ShowProgress();
    }
    if (!measuring()) backend_->Arrange(*out, codes, scales);
    return absl::OkStatus();
  }

  // Slices side by side.
  absl::Status LoadVector(const Slices& slices, DType dtype,
                          std::optional<float> if_dummy, const void** out) {
    if (slices.empty()) return absl::OkStatus();
    int64_t size = 0;
    for (const TensorSlice& slice : slices) size += slice.num_columns();
    std::byte* at = Take(AlignedStride(size) * SizeOf(dtype));
    *out = at;
    for (const TensorSlice& slice : slices) {
      const int64_t bytes = slice.num_columns() * SizeOf(dtype);
      H2O_RETURN_IF_ERROR(Fill(slice, dtype, bytes, if_dummy, at));
      if (!measuring()) at += bytes;
    }
    return absl::OkStatus();
  }

  std::byte* Take(int64_t bytes) {
    std::byte* at = measuring() ? nullptr : memory_ + used_bytes_;
    used_bytes_ += CeilDiv(bytes, kAlignmentBytes) * kAlignmentBytes;
    return at;
  }

  absl::Status Fill(const TensorSlice& slice, DType dtype, int64_t row_bytes,
                    std::optional<float> if_dummy, std::byte* out) {
    H2O_RETURN_IF_ERROR(source_->Check(slice));
    if (measuring()) return absl::OkStatus();
    H2O_RETURN_IF_ERROR(source_->Fill(slice, dtype, row_bytes, if_dummy, out));
    ShowProgress();
    return absl::OkStatus();
  }

  void ShowProgress() const {
    if (measuring() || !options_.progress) return;
    options_.progress(static_cast<double>(used_bytes_) / total_bytes_);
  }

  const WeightMap& map_;
  const float norm_epsilon_;
  const WeightOptions& options_;
  Backend* const backend_;
  SliceSource* const source_;
  std::byte* const memory_;  // null while measuring
  const int64_t total_bytes_;
  int64_t used_bytes_ = 0;
};

}  // namespace

absl::StatusOr<ShardWeights> LoadShardWeights(const ModelConfig& config,
                                              const ShardSpec& shard,
                                              const WeightOptions& options,
                                              Backend* backend) {
  H2O_ASSIGN_OR_RETURN(const Family* family, FindFamily(config.family));
  WeightMap map = MapWeights(family->names, config, shard);
  if (options.checkpoint != nullptr) {
    H2O_ASSIGN_OR_RETURN(
        map, MapCheckpoint(*family, config, shard, *options.checkpoint));
  }
  return LoadMappedWeights(map, config.norm_epsilon, shard.rank, shard.size,
                           options, backend);
}

absl::StatusOr<ShardWeights> LoadMappedWeights(const WeightMap& map,
                                               float norm_epsilon, int rank,
                                               int size,
                                               const WeightOptions& options,
                                               Backend* backend) {
  SliceSource source(options, map.stored, backend);
  Loader measure(map, norm_epsilon, options, backend, &source, nullptr, 0);
  ShardWeights draft;
  H2O_RETURN_IF_ERROR(measure.Load(&draft));

  // Linux overcommits memory, so the need is compared with what is free before
  // anything is allocated.
  const int64_t free = backend->FreeBytes();
  if (free > 0 && measure.used_bytes() > free) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the weights of rank ", rank, " of ", size, " take ",
                     measure.used_bytes(), " bytes; ", free,
                     " are free: use more ranks, or a smaller dtype"));
  }
  ShardWeights weights;
  H2O_ASSIGN_OR_RETURN(weights.memory, backend->Allocate(measure.used_bytes()));
  Loader fill(map, norm_epsilon, options, backend, &source,
              weights.memory.data(), measure.used_bytes());
  H2O_RETURN_IF_ERROR(fill.Load(&weights));
  H2O_RETURN_IF_ERROR(backend->Synchronize());
  return weights;
}

}  // namespace h2o
