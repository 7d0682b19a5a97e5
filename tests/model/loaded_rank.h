// What is known of a rank that a test did not load.
#pragma once

#include <cstdint>

#include "model/rank_info.h"

namespace h2o {

// Keys and values are float32.
inline RankInfo LoadedRank(const ModelConfig& config, int64_t num_slabs) {
  RankInfo info;
  info.config = config;
  info.geometry = {config.num_layers,
                   config.qkv.kv_heads,
                   config.qkv.head_dim,
                   {{DType::kFloat32}}};
  info.num_slabs = num_slabs;
  info.fingerprint = "f1";
  info.memory = {.weights = 1,
                 .workspace = 1,
                 .kv_pool = num_slabs * info.geometry.SlabBytes()};
  return info;
}

}  // namespace h2o
