// Joins tensor names, shapes and a rank's share into a WeightMap.
#include "model/weight_map.h"

#include <initializer_list>
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
    const int64_t d = config_.stored_head_dim();
    const Widening heads{d, config_.qkv.head_dim};
    const Range queries{shard_.heads.begin * d, shard_.heads.end * d};
    const Range keys{shard_.kv_heads.begin * d, shard_.kv_heads.end * d};
    const int64_t all_queries = config_.qkv.heads * d;
    const int64_t all_keys = config_.qkv.kv_heads * d;
    const int64_t ffn = config_.ffn_dim;
    LayerMap map;
    map.attention_norm = Norm(prefix + names_.attention_norm);
    AddOutputs(prefix + names_.q, all_queries, queries, heads, &map.qkv);
    AddOutputs(prefix + names_.k, all_keys, keys, heads, &map.qkv);
    AddOutputs(prefix + names_.v, all_keys, keys, heads, &map.qkv);
    map.out = Inputs(prefix + names_.out, all_queries, queries, heads);
    map.ffn_norm = Norm(prefix + names_.ffn_norm);
    AddOutputs(prefix + names_.fc1, ffn, shard_.ffn_columns, {}, &map.fc1);
    map.fc2 = Inputs(prefix + names_.fc2, ffn, shard_.ffn_columns, {});
    return map;
  }

  // A linear layer from the residual, of which the rank has the outputs
  // `part`, below what is in `out` already.
  void AddOutputs(const std::string& name, int64_t outputs, Range part,
                  Widening wide, WeightSource* out) const {
    out->weight.push_back(
        Matrix(name, outputs, part, config_.hidden_size, hidden_));
    out->weight.back().wide_rows = wide;
    if (!config_.bias) return;
    out->bias.push_back(Vector(name, ".bias", outputs, part));
    out->bias.back().wide_columns = wide;
  }
  // A linear layer to the residual, of which the rank has the inputs `part`.
  WeightSource Inputs(const std::string& name, int64_t inputs, Range part,
                      Widening wide) const {
    WeightSource out;
    out.weight = {Matrix(name, config_.hidden_size, hidden_, inputs, part)};
    out.weight[0].wide_columns = wide;
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

}  // namespace

WeightMap MapWeights(const TensorNames& names, const ModelConfig& config,
                     const ShardSpec& shard) {
  return Mapper(names, config, shard).Map();
}

void ForEachSlice(const WeightMap& map,
                  absl::FunctionRef<void(const TensorSlice& slice)> fn) {
  const auto visit = [&](std::initializer_list<const WeightSource*> sources) {
    for (const WeightSource* source : sources) {
      for (const TensorSlice& slice : source->weight) fn(slice);
      for (const TensorSlice& slice : source->bias) fn(slice);
    }
  };
  visit({&map.token_embedding, &map.position_embedding, &map.project_in,
         &map.project_out, &map.final_norm, &map.head});
  for (const LayerMap& layer : map.layers) {
    visit({&layer.attention_norm, &layer.qkv, &layer.out, &layer.ffn_norm,
           &layer.fc1, &layer.fc2});
  }
}

void ForEachLinearOfLayers(
    const WeightMap& map,
    absl::FunctionRef<void(const TensorSlice& slice)> fn) {
  for (const LayerMap& layer : map.layers) {
    for (const WeightSource* source :
         {&layer.qkv, &layer.out, &layer.fc1, &layer.fc2}) {
      for (const TensorSlice& slice : source->weight) fn(slice);
    }
  }
}

int64_t CountParameters(const WeightMap& map) {
  int64_t sum = 0;
  ForEachSlice(map, [&](const TensorSlice& slice) { sum += slice.size(); });
  return sum;
}

}  // namespace h2o
