// A checkpoint of an OPT of two layers, written for a test.
#pragma once

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "model/family.h"
#include "model/weight_map.h"
#include "tests/model/safetensors_text.h"
#include "tests/model/temp_directory.h"

namespace h2o {

inline nlohmann::json TinyOptConfig() {
  return {{"model_type", "opt"},
          {"num_hidden_layers", 2},
          {"hidden_size", 128},
          {"num_attention_heads", 8},
          {"ffn_dim", 192},
          {"vocab_size", 160},
          {"max_position_embeddings", 64},
          {"word_embed_proj_dim", 128},
          {"dtype", "float32"},
          {"tie_word_embeddings", true}};
}

// `change` may change the tensors, random ones, before they are written.
inline void WriteTinyCheckpoint(
    const TempDirectory& directory, const nlohmann::json& config,
    const std::function<void(std::vector<Float32Tensor>*)>& change = {}) {
  directory.Write("config.json", config.dump());
  const ModelConfig model = ReadModelConfig(directory.path()).value();
  const Family* const family = FindFamily("opt").value();
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  std::vector<Float32Tensor> tensors;
  ForEachSlice(MapWeights(family->names, model, model.Shard(0, 1)),
               [&](const TensorSlice& slice) {
                 Float32Tensor& tensor = tensors.emplace_back();
                 tensor.name = family->names.prefix + slice.name;
                 tensor.shape = {slice.full_columns};
                 if (slice.full_rows > 1) {
                   tensor.shape = {slice.full_rows, slice.full_columns};
                 }
                 for (int64_t i = 0; i < slice.size(); ++i) {
                   tensor.values.push_back(0.1f * normal(random));
                 }
               });
  if (change) change(&tensors);
  directory.Write("model.safetensors", SafetensorsText(tensors));
}

}  // namespace h2o
