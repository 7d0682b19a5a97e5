// Copies the slices of a WeightMap from the checkpoint to the device, or fills
// them with random numbers.
#include "worker/shard_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "model/checkpoint_map.h"
#include "model/family.h"
#include "model/weight_map.h"
#include "worker/stored_rows.h"

namespace h2o {
namespace {

constexpr int64_t kAlignmentBytes = 256;

// Dummy weights are uniform with a standard deviation of 0.02.
constexpr float kDummyScale = 0.02f * 1.7320508f;

// The stream of random numbers of a tensor's name, the same on every machine.
uint64_t HashName(absl::string_view name) {
  return Fnv1a().AddBytes(name.data(), name.size()).value();
}

// Walks over all weights, twice with the same code: without memory it adds up
// the bytes, with memory it fills them.
class Loader {
 public:
  Loader(const WeightMap& map, float norm_epsilon, const WeightOptions& options,
         Backend* backend, std::byte* memory, int64_t total_bytes)
      : map_(map),
        norm_epsilon_(norm_epsilon),
        options_(options),
        backend_(backend),
        memory_(memory),
        total_bytes_(total_bytes),
        pool_(memory == nullptr ? 1 : options.num_threads) {}

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
    H2O_RETURN_IF_ERROR(LoadLinear(map.qkv, &w->qkv));
    H2O_RETURN_IF_ERROR(LoadMatrix(map.out.weight, &w->out.weight));
    H2O_RETURN_IF_ERROR(LoadBias(map.out.bias, &w->out_bias));
    H2O_RETURN_IF_ERROR(LoadLinear(map.fc1, &w->fc1));
    H2O_RETURN_IF_ERROR(LoadMatrix(map.fc2.weight, &w->fc2.weight));
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
    H2O_ASSIGN_OR_RETURN(out->dtype, StorageType(slices[0].name));
    out->columns = slices[0].num_columns();
    out->stride = AlignedStride(out->columns);
    for (const TensorSlice& slice : slices) out->rows += slice.num_rows();
    const int64_t row_bytes = out->stride * SizeOf(out->dtype);
    std::byte* at = Take(out->rows * row_bytes);
    out->data = at;
    for (const TensorSlice& slice : slices) {
      H2O_RETURN_IF_ERROR(Fill(slice, out->dtype, row_bytes, std::nullopt, at));
      if (!measuring()) at += slice.num_rows() * row_bytes;
    }
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

  // Dummy weights are random unless `if_dummy` is their value.
  absl::Status Fill(const TensorSlice& slice, DType dtype, int64_t row_bytes,
                    std::optional<float> if_dummy, std::byte* out) {
    if (options_.checkpoint == nullptr) {
      if (measuring()) return absl::OkStatus();
      if (if_dummy) {
        FillConstant(slice, dtype, row_bytes, *if_dummy, out);
      } else {
        FillRandom(slice, dtype, row_bytes, out);
      }
    } else {
      H2O_ASSIGN_OR_RETURN(StoredTensor tensor, Find(slice.name));
      H2O_RETURN_IF_ERROR(CheckShape(slice, tensor));
      if (!measuring()) {
        H2O_RETURN_IF_ERROR(FillStored(slice, tensor, dtype, row_bytes, out));
      }
    }
    if (!measuring() && options_.progress) {
      options_.progress(static_cast<double>(used_bytes_) / total_bytes_);
    }
    return absl::OkStatus();
  }

  static absl::Status CheckShape(const TensorSlice& slice,
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

  // Calls fill(r, row) for each row of a slice; `row` is `row_bytes` of host
  // memory.  Uploads as many rows at once as the device takes.
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

  absl::Status FillStored(const TensorSlice& slice, const StoredTensor& tensor,
                          DType dtype, int64_t row_bytes, std::byte* out) {
    std::atomic<int64_t> bad_row = -1;
    UploadRows(slice.num_rows(), row_bytes, out,
               [&](int64_t r, std::byte* row) {
                 FillStoredRow(slice, tensor, dtype, r, row_bytes, row);
                 if (!AllFinite(row, dtype, slice.num_columns())) bad_row = r;
               });
    if (bad_row < 0) return absl::OkStatus();
    return NotFiniteError(slice, tensor, dtype, bad_row);
  }

  void FillConstant(const TensorSlice& slice, DType dtype, int64_t row_bytes,
                    float constant, std::byte* out) {
    UploadRows(slice.rows.size(), row_bytes, out, [&](int64_t, std::byte* row) {
      for (int64_t c = 0; c < slice.num_columns(); ++c) {
        StoreElement(row, dtype, c, constant);
      }
    });
  }

  void FillRandom(const TensorSlice& slice, DType dtype, int64_t row_bytes,
                  std::byte* out) {
    if (slice.wide_rows.none() && slice.wide_columns.none()) {
      FillBlock(slice, slice.rows, slice.columns, dtype, row_bytes, out);
      return;
    }
    FillConstant(slice, dtype, row_bytes, 0, out);
    const Widening& rows = slice.wide_rows;
    const Widening& columns = slice.wide_columns;
    const int64_t height = rows.none() ? slice.rows.size() : rows.from;
    const int64_t width = columns.none() ? slice.columns.size() : columns.from;
    for (int64_t r = 0; r < slice.rows.size(); r += height) {
      for (int64_t c = 0; c < slice.columns.size(); c += width) {
        const int64_t row = slice.rows.begin + r;
        const int64_t column = slice.columns.begin + c;
        FillBlock(slice, {row, row + height}, {column, column + width}, dtype,
                  row_bytes,
                  out + rows(r) * row_bytes + columns(c) * SizeOf(dtype));
      }
    }
  }
  void FillBlock(const TensorSlice& slice, Range rows, Range columns,
                 DType dtype, int64_t row_bytes, std::byte* out) {
    DummyTensor tensor;
    tensor.seed = options_.dummy_seed;
    tensor.stream = HashName(slice.name);
    tensor.scale = kDummyScale;
    tensor.row_begin = rows.begin;
    tensor.rows = rows.size();
    tensor.column_begin = columns.begin;
    tensor.columns = columns.size();
    tensor.full_columns = slice.full_columns;
    backend_->FillDummy(tensor, dtype, out, row_bytes / SizeOf(dtype));
  }

  const WeightMap& map_;
  const float norm_epsilon_;
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
  H2O_ASSIGN_OR_RETURN(const Family* family, FindFamily(config.family));
  WeightMap map = MapWeights(family->names, config, shard);
  if (options.checkpoint != nullptr) {
    H2O_ASSIGN_OR_RETURN(
        map, MapCheckpoint(*family, config, shard, *options.checkpoint));
  }
  Loader measure(map, config.norm_epsilon, options, backend, nullptr, 0);
  ShardWeights draft;
  H2O_RETURN_IF_ERROR(measure.Load(&draft));

  // Linux overcommits memory, so the need is compared with what is free before
  // anything is allocated.
  const int64_t free = backend->FreeBytes();
  if (free > 0 && measure.used_bytes() > free) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the weights of rank ", shard.rank, " of ", shard.size,
                     " take ", measure.used_bytes(), " bytes; ", free,
                     " are free: use more ranks, or a smaller dtype"));
  }
  ShardWeights weights;
  H2O_ASSIGN_OR_RETURN(weights.memory, backend->Allocate(measure.used_bytes()));
  Loader fill(map, config.norm_epsilon, options, backend, weights.memory.data(),
              measure.used_bytes());
  H2O_RETURN_IF_ERROR(fill.Load(&weights));
  H2O_RETURN_IF_ERROR(backend->Synchronize());
  return weights;
}

}  // namespace h2o
