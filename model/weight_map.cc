// Joins tensor names, shapes and a rank's share into a WeightMap.
#include "model/weight_map.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

class Mapper {
 public:
  Mapper(const TensorNames& names, const ModelConfig& config,
         const ShardSpec& shard)
      : names_(names),
        config_(config),
        shard_(shard),
        hidden_{0, config.hidden_size},
        embed_{0, config.embed_dim} {}

  WeightMap Map() const {
    WeightMap map;
    map.token_embedding.weight = {VocabularyMatrix(names_.token_embedding)};
    const Range positions{0, config_.max_positions + config_.position_offset};
    map.position_embedding.weight = {Matrix(names_.position_embedding,
                                            positions.size(), positions,
                                            config_.hidden_size, hidden_)};
    if (config_.has_projections()) {
      map.project_in.weight = {Matrix(names_.project_in, config_.hidden_size,
                                      hidden_, config_.embed_dim, embed_)};
      map.project_out.weight = {Matrix(names_.project_out, config_.embed_dim,
                                       embed_, config_.hidden_size, hidden_)};
    }
    for (int i = 0; i < config_.num_layers; ++i) {
      map.layers.push_back(Layer(absl::StrCat(names_.layer, i, ".")));
    }
    if (config_.final_norm) map.final_norm = Norm(names_.final_norm);
    if (!config_.tied_head) map.head.weight = {VocabularyMatrix(names_.head)};
    return map;
  }

 private:
  LayerMap Layer(const std::string& prefix) const {
    const QkvLayout& qkv = config_.qkv;
    const auto columns = [&](Range heads) {
      return Range{heads.begin * qkv.head_dim, heads.end * qkv.head_dim};
    };
    const Range queries = columns(shard_.heads);
    const Range keys = columns(shard_.kv_heads);
    const int64_t ffn = config_.ffn_dim;
    LayerMap map;
    map.attention_norm = Norm(prefix + names_.attention_norm);
    AddOutputs(prefix + names_.q, qkv.query_columns(), queries, &map.qkv);
    AddOutputs(prefix + names_.k, qkv.kv_columns(), keys, &map.qkv);
    AddOutputs(prefix + names_.v, qkv.kv_columns(), keys, &map.qkv);
    map.out = Inputs(prefix + names_.out, qkv.query_columns(), queries);
    map.ffn_norm = Norm(prefix + names_.ffn_norm);
    AddOutputs(prefix + names_.fc1, ffn, shard_.ffn_columns, &map.fc1);
    map.fc2 = Inputs(prefix + names_.fc2, ffn, shard_.ffn_columns);
    return map;
  }

  // A linear layer from the residual, of which the rank has the outputs
  // `part`, below what is in `out` already.
  void AddOutputs(const std::string& name, int64_t outputs, Range part,
                  WeightSource* out) const {
    out->weight.push_back(
        Matrix(name, outputs, part, config_.hidden_size, hidden_));
    if (config_.bias) out->bias.push_back(Vector(name, ".bias", outputs, part));
  }
  // A linear layer to the residual, of which the rank has the inputs `part`.
  WeightSource Inputs(const std::string& name, int64_t inputs,
                      Range part) const {
    WeightSource out;
    out.weight = {Matrix(name, config_.hidden_size, hidden_, inputs, part)};
    if (config_.bias) {
      out.bias = {Vector(name, ".bias", config_.hidden_size, hidden_)};
    }
    return out;
  }
  WeightSource Norm(const std::string& name) const {
    if (!config_.norm_affine) return {};
    return {{Vector(name, ".weight", config_.hidden_size, hidden_)},
            {Vector(name, ".bias", config_.hidden_size, hidden_)}};
  }
  TensorSlice VocabularyMatrix(const char* name) const {
    return Matrix(name, config_.vocab_size, shard_.vocabulary,
                  config_.embed_dim, embed_);
  }
  static TensorSlice Matrix(const std::string& name, int64_t full_rows,
                            Range rows, int64_t full_columns, Range columns) {
    return {name + ".weight", full_rows, full_columns, rows, columns};
  }
  static TensorSlice Vector(const std::string& name, const char* part_name,
                            int64_t size, Range part) {
    return {name + part_name, 1, size, {0, 1}, part};
  }

  const TensorNames& names_;
  const ModelConfig& config_;
  const ShardSpec& shard_;
  const Range hidden_, embed_;  // whole
};

int64_t Count(const WeightSource& source) {
  int64_t sum = 0;
  for (const TensorSlice& slice : source.weight) sum += slice.size();
  for (const TensorSlice& slice : source.bias) sum += slice.size();
  return sum;
}

}  // namespace

WeightMap MapWeights(const TensorNames& names, const ModelConfig& config,
                     const ShardSpec& shard) {
  return Mapper(names, config, shard).Map();
}

int64_t CountParameters(const WeightMap& map) {
  int64_t sum = Count(map.token_embedding) + Count(map.position_embedding) +
                Count(map.project_in) + Count(map.project_out) +
                Count(map.final_norm) + Count(map.head);
  for (const LayerMap& layer : map.layers) {
    sum += Count(layer.attention_norm) + Count(layer.qkv) + Count(layer.out) +
           Count(layer.ffn_norm) + Count(layer.fc1) + Count(layer.fc2);
  }
  return sum;
}

}  // namespace h2o
