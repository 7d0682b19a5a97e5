// Which tensors of a checkpoint make which weight of a rank, and which part of
// each.  A family's tensor names, a model's shapes and a rank's share are
// joined here, so a loader only copies what the map lists.
//
// The cut is that of Megatron-LM (Shoeybi et al. 2019): q, k, v and fc1 by
// outputs, out and fc2 by inputs, embedding and head by vocabulary.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "model/model_config.h"
#include "model/quantization_config.h"
#include "parallel/shard_spec.h"

namespace h2o {

// How a family names its tensors; ".weight" and ".bias" are left out.
struct TensorNames {
  const char* prefix;  // in front of all names, in some checkpoints
  const char* token_embedding;
  const char* position_embedding;
  const char* project_in;   // from embed_dim to hidden_size
  const char* project_out;  // and back
  const char* final_norm;
  const char* head;
  const char* layer;  // followed by the layer's number, "." and one of these:
  const char* attention_norm;
  const char* q;
  const char* k;
  const char* v;
  const char* out;
  const char* ffn_norm;
  const char* fc1;
  const char* fc2;
};

// Heads narrower than those of the kernels are widened with zeros: of each `to`
// rows (or columns) in memory, the first `from` are the tensor's.
struct Widening {
  int64_t from = 1, to = 1;

  bool none() const { return from == to; }
  int64_t operator()(int64_t size) const { return size / from * to; }
};

// A rectangle of a tensor [full_rows, full_columns]; a vector is one row.
struct TensorSlice {
  std::string name;
  int64_t full_rows = 1;
  int64_t full_columns = 0;
  Range rows, columns;  // of the tensor
  Widening wide_rows, wide_columns;

  int64_t size() const { return rows.size() * columns.size(); }
  // In memory.
  int64_t num_rows() const { return wide_rows(rows.size()); }
  int64_t num_columns() const { return wide_columns(columns.size()); }
};

using Slices = std::vector<TensorSlice>;

// Where one linear layer, norm or table comes from.  Matrices are stacked on
// each other, vectors follow each other; empty: the model has none.
struct WeightSource {
  Slices weight;  // [outputs, inputs]; of a norm: a vector
  Slices bias;
};

struct LayerMap {
  WeightSource attention_norm;
  WeightSource qkv;  // in the order of QkvLayout
  WeightSource out;
  WeightSource ffn_norm;
  WeightSource fc1;
  WeightSource fc2;
};

struct WeightMap {
  WeightSource token_embedding;
  WeightSource position_embedding;
  WeightSource project_in;
  WeightSource project_out;
  std::vector<LayerMap> layers;
  WeightSource final_norm;
  WeightSource head;          // empty: the token embedding
  QuantizationConfig stored;  // how a checkpoint has the layers' linear layers
};

WeightMap MapWeights(const TensorNames& names, const ModelConfig& config,
                     const ShardSpec& shard);

// Calls fn(slice) for all of `map`.
void ForEachSlice(const WeightMap& map,
                  absl::FunctionRef<void(const TensorSlice& slice)> fn);

// The same for the weights that may be codes.
void ForEachLinearOfLayers(
    const WeightMap& map, absl::FunctionRef<void(const TensorSlice& slice)> fn);

// Elements of all tensors that `map` names.
int64_t CountParameters(const WeightMap& map);

}  // namespace h2o
