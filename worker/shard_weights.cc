#include "worker/shard_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"

namespace h2o {
namespace {

constexpr int64_t kAlignmentBytes = 256;

// Dummy weights are uniform with OPT's init_std.
constexpr float kDummyScale = 0.02f * 1.7320508f;

// The stream of random numbers of a tensor's name, the same on every machine.
uint64_t HashName(absl::string_view name) {
  return Fnv1a().AddBytes(name.data(), name.size()).value();
}

// A rectangle of a tensor [rows, columns]; a vector is one row.
struct Slice {
  std::string name;
  int64_t full_rows = 1, full_columns = 0;
  Range rows, columns;
};

Slice Vector(std::string name, int64_t size, Range part) {
  return {std::move(name), 1, size, {0, 1}, part};
}

// Walks over all weights twice with the same code: first to add up the memory,
// then to fill it.
class Loader {
 public:
  Loader(const ModelConfig& config, const ShardSpec& shard,
         const WeightOptions& options, Backend* backend, std::byte* memory,
         int64_t total_bytes)
      : config_(config),
        shard_(shard),
        options_(options),
        backend_(backend),
        memory_(memory),
        total_bytes_(total_bytes),
        pool_(memory == nullptr ? 1 : options.num_threads) {}

  int64_t used_bytes() const { return used_bytes_; }

  absl::Status Load(ShardWeights* w) {
    const Range all_hidden{0, config_.hidden_size};
    const Range all_embed{0, config_.embed_dim};
    H2O_RETURN_IF_ERROR(
        LoadMatrix({{"decoder.embed_tokens.weight", config_.vocab_size,
                     config_.embed_dim, shard_.vocabulary, all_embed}},
                   &w->token_embedding));
    const int64_t positions = config_.max_positions + config_.position_offset;
    H2O_RETURN_IF_ERROR(LoadMatrix({{"decoder.embed_positions.weight",
                                     positions,
                                     config_.hidden_size,
                                     {0, positions},
                                     all_hidden}},
                                   &w->position_embedding));
    if (config_.has_projections()) {
      H2O_RETURN_IF_ERROR(
          LoadMatrix({{"decoder.project_in.weight", config_.hidden_size,
                       config_.embed_dim, all_hidden, all_embed}},
                     &w->project_in.weight));
      H2O_RETURN_IF_ERROR(
          LoadMatrix({{"decoder.project_out.weight", config_.embed_dim,
                       config_.hidden_size, all_embed, all_hidden}},
                     &w->project_out.weight));
    }
    w->layers.resize(config_.num_layers);
    for (int i = 0; i < config_.num_layers; ++i) {
      H2O_RETURN_IF_ERROR(
          LoadLayer(absl::StrCat("decoder.layers.", i, "."), &w->layers[i]));
    }
    if (config_.final_norm) {
      H2O_RETURN_IF_ERROR(LoadNorm("decoder.final_layer_norm", &w->final_norm));
    }
    if (config_.tied_head) {
      w->head.weight = w->token_embedding;
    } else {
      H2O_RETURN_IF_ERROR(
          LoadMatrix({{"lm_head.weight", config_.vocab_size, config_.embed_dim,
                       shard_.vocabulary, all_embed}},
                     &w->head.weight));
    }
    return absl::OkStatus();
  }

 private:
  bool measuring() const { return memory_ == nullptr; }

  absl::Status LoadLayer(const std::string& prefix, LayerWeights* w) {
    const int64_t hidden = config_.hidden_size, d = config_.qkv.head_dim;
    const Range all{0, hidden};
    const Range columns{shard_.heads.begin * d, shard_.heads.end * d};
    const std::string attention = prefix + "self_attn.";
    std::vector<Slice> weights, biases;
    for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
      weights.push_back({absl::StrCat(attention, part, ".weight"), hidden,
                         hidden, columns, all});
      biases.push_back(
          Vector(absl::StrCat(attention, part, ".bias"), hidden, columns));
    }
    H2O_RETURN_IF_ERROR(LoadMatrix(weights, &w->qkv.weight));
    H2O_RETURN_IF_ERROR(LoadBias(biases, &w->qkv.bias));
    H2O_RETURN_IF_ERROR(LoadMatrix(
        {{attention + "out_proj.weight", hidden, hidden, all, columns}},
        &w->out.weight));
    H2O_RETURN_IF_ERROR(LoadBias(
        {Vector(attention + "out_proj.bias", hidden, all)}, &w->out_bias));
    H2O_RETURN_IF_ERROR(LoadMatrix({{prefix + "fc1.weight", config_.ffn_dim,
                                     hidden, shard_.ffn_columns, all}},
                                   &w->fc1.weight));
    H2O_RETURN_IF_ERROR(LoadBias(
        {Vector(prefix + "fc1.bias", config_.ffn_dim, shard_.ffn_columns)},
        &w->fc1.bias));
    H2O_RETURN_IF_ERROR(LoadMatrix({{prefix + "fc2.weight", hidden,
                                     config_.ffn_dim, all, shard_.ffn_columns}},
                                   &w->fc2.weight));
    H2O_RETURN_IF_ERROR(
        LoadBias({Vector(prefix + "fc2.bias", hidden, all)}, &w->fc2_bias));
    H2O_RETURN_IF_ERROR(
        LoadNorm(prefix + "self_attn_layer_norm", &w->attention_norm));
    return LoadNorm(prefix + "final_layer_norm", &w->ffn_norm);
  }

  absl::Status LoadBias(const std::vector<Slice>& slices, const void** out) {
    if (!config_.bias) return absl::OkStatus();
    return LoadVector(slices, backend_->formats().biases, out);
  }

  absl::Status LoadNorm(const std::string& name, LayerNormWeights* norm) {
    norm->epsilon = config_.norm_epsilon;
    if (!config_.norm_affine) return absl::OkStatus();
    const Range all{0, config_.hidden_size};
    for (const auto& [part, out] :
         {std::pair{".weight", &norm->weight}, {".bias", &norm->bias}}) {
      const void* vector = nullptr;
      H2O_RETURN_IF_ERROR(
          LoadVector({Vector(name + part, config_.hidden_size, all)},
                     DType::kFloat32, &vector));
      *out = static_cast<const float*>(vector);
    }
    return absl::OkStatus();
  }

  // Slices stacked on each other, rows padded with zeros to whole vectors.
  absl::Status LoadMatrix(const std::vector<Slice>& slices, StoredMatrix* out) {
    H2O_ASSIGN_OR_RETURN(out->dtype, StorageType(slices[0].name));
    out->columns = slices[0].columns.size();
    out->stride = AlignedStride(out->columns);
    for (const Slice& slice : slices) out->rows += slice.rows.size();
    const int64_t row_bytes = out->stride * SizeOf(out->dtype);
    std::byte* at = Take(out->rows * row_bytes);
    out->data = at;
    for (const Slice& slice : slices) {
      H2O_RETURN_IF_ERROR(Fill(slice, out->dtype, row_bytes, at));
      if (!measuring()) at += slice.rows.size() * row_bytes;
    }
    return absl::OkStatus();
  }

  // Slices side by side.
  absl::Status LoadVector(const std::vector<Slice>& slices, DType dtype,
                          const void** out) {
    int64_t size = 0;
    for (const Slice& slice : slices) size += slice.columns.size();
    std::byte* at = Take(AlignedStride(size) * SizeOf(dtype));
    *out = at;
    for (const Slice& slice : slices) {
      const int64_t bytes = slice.columns.size() * SizeOf(dtype);
      H2O_RETURN_IF_ERROR(Fill(slice, dtype, bytes, at));
      if (!measuring()) at += bytes;
    }
    return absl::OkStatus();
  }

  std::byte* Take(int64_t bytes) {
    std::byte* at = measuring() ? nullptr : memory_ + used_bytes_;
    used_bytes_ += CeilDiv(bytes, kAlignmentBytes) * kAlignmentBytes;
    return at;
  }

  absl::StatusOr<DType> StorageType(const std::string& name) const {
    if (options_.dtype != DType::kFloat32 || options_.checkpoint == nullptr) {
      return options_.dtype;
    }
    H2O_ASSIGN_OR_RETURN(StoredTensor tensor, Find(name));
    return tensor.dtype;
  }

  absl::StatusOr<StoredTensor> Find(const std::string& name) const {
    absl::StatusOr<StoredTensor> tensor = options_.checkpoint->Find(name);
    if (absl::IsNotFound(tensor.status())) {
      return absl::FailedPreconditionError(
          absl::StrCat("the checkpoint has no tensor ", name,
                       ", which its config.json asks for"));
    }
    return tensor;
  }

  absl::Status Fill(const Slice& slice, DType dtype, int64_t row_bytes,
                    std::byte* out) {
    if (options_.checkpoint == nullptr) {
      if (!measuring()) FillDummy(slice, dtype, row_bytes, out);
    } else {
      H2O_ASSIGN_OR_RETURN(StoredTensor tensor, Find(slice.name));
      H2O_RETURN_IF_ERROR(CheckShape(slice, tensor));
      if (!measuring()) FillStored(slice, tensor, dtype, row_bytes, out);
    }
    if (!measuring() && options_.progress) {
      options_.progress(static_cast<double>(used_bytes_) / total_bytes_);
    }
    return absl::OkStatus();
  }

  static absl::Status CheckShape(const Slice& slice,
                                 const StoredTensor& tensor) {
    const std::vector<int64_t> vector = {slice.full_columns};
    const std::vector<int64_t> matrix = {slice.full_rows, slice.full_columns};
    const bool one_row = slice.full_rows == 1;
    if (tensor.shape == matrix || (one_row && tensor.shape == vector)) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "tensor ", tensor.name, " has shape [",
        absl::StrJoin(tensor.shape, ", "), "]; config.json asks for [",
        absl::StrJoin(one_row ? vector : matrix, ", "), "]"));
  }

  // Calls fill(r, row) for each row of a slice, `row` being host memory for
  // `row_bytes` of it, in slabs that the device takes at once.
  template <class FillRow>
  void UploadRows(int64_t rows, int64_t row_bytes, std::byte* out,
                  FillRow&& fill) {
    const int64_t slab =
        std::max<int64_t>(Device::kMaxUploadBytes / row_bytes, 1);
    for (int64_t first = 0; first < rows; first += slab) {
      const int64_t n = std::min(slab, rows - first);
      backend_->UploadFrom(
          n * row_bytes, out + first * row_bytes, [&](std::byte* host) {
            pool_.ParallelFor(n, 64, [&](int64_t begin, int64_t end, int) {
              for (int64_t r = begin; r < end; ++r) {
                fill(first + r, host + r * row_bytes);
              }
            });
          });
    }
  }

  void FillStored(const Slice& slice, const StoredTensor& tensor, DType dtype,
                  int64_t row_bytes, std::byte* out) {
    const int64_t width = slice.columns.size();
    const int64_t bytes = width * SizeOf(dtype);
    UploadRows(
        slice.rows.size(), row_bytes, out, [&](int64_t r, std::byte* row) {
          const int64_t first =
              (slice.rows.begin + r) * slice.full_columns + slice.columns.begin;
          if (dtype == tensor.dtype) {
            std::memcpy(row, tensor.data + first * SizeOf(dtype), bytes);
          } else {
            for (int64_t c = 0; c < width; ++c) {
              StoreElement(row, dtype, c,
                           LoadElement(tensor.data, tensor.dtype, first + c));
            }
          }
          std::memset(row + bytes, 0, row_bytes - bytes);
        });
  }

  void FillDummy(const Slice& slice, DType dtype, int64_t row_bytes,
                 std::byte* out) {
    if (absl::StrContains(slice.name, "layer_norm")) {
      const float constant = absl::EndsWith(slice.name, ".weight") ? 1 : 0;
      UploadRows(1, row_bytes, out, [&](int64_t, std::byte* row) {
        for (int64_t c = 0; c < slice.columns.size(); ++c) {
          StoreElement(row, dtype, c, constant);
        }
      });
      return;
    }
    DummyTensor tensor;
    tensor.seed = options_.dummy_seed;
    tensor.stream = HashName(slice.name);
    tensor.scale = kDummyScale;
    tensor.row_begin = slice.rows.begin;
    tensor.rows = slice.rows.size();
    tensor.column_begin = slice.columns.begin;
    tensor.columns = slice.columns.size();
    tensor.full_columns = slice.full_columns;
    backend_->FillDummy(tensor, dtype, out, row_bytes / SizeOf(dtype));
  }

  const ModelConfig& config_;
  const ShardSpec& shard_;
  const WeightOptions& options_;
  Backend* const backend_;
  std::byte* const memory_;  // null while measuring
  const int64_t total_bytes_;
  ThreadPool pool_;
  int64_t used_bytes_ = 0;
};

}  // namespace

absl::StatusOr<ShardWeights> LoadShardWeights(const ModelConfig& config,
                                              const ShardSpec& shard,
                                              const WeightOptions& options,
                                              Backend* backend) {
  Loader measure(config, shard, options, backend, nullptr, 0);
  ShardWeights draft;
  H2O_RETURN_IF_ERROR(measure.Load(&draft));

  // A host grants more than it has, and kills who then uses it.
  const int64_t free = backend->FreeBytes();
  if (free > 0 && measure.used_bytes() > free) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the weights of rank ", shard.rank, " of ", shard.size,
                     " take ", measure.used_bytes(), " bytes; ", free,
                     " are free: use more ranks, or a smaller dtype"));
  }
  ShardWeights weights;
  H2O_ASSIGN_OR_RETURN(weights.memory, backend->Allocate(measure.used_bytes()));
  Loader fill(config, shard, options, backend, weights.memory.data(),
              measure.used_bytes());
  H2O_RETURN_IF_ERROR(fill.Load(&weights));
  H2O_RETURN_IF_ERROR(backend->Synchronize());
  return weights;
}

}  // namespace h2o
