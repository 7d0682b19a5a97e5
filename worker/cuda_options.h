// The sizes of a GPU's backend for one rank of a model.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/cuda_backend.h"
#include "model/model_config.h"
#include "parallel/shard_spec.h"

namespace h2o {

// The caller adds the GPU, the format and how many rows and slots it wants.
inline CudaBackendOptions CudaOptionsOf(const ModelConfig& config,
                                        const ShardSpec& shard) {
  CudaBackendOptions options;
  options.max_heads = shard.heads.size();
  options.head_dim = config.qkv.head_dim;
  options.hidden_size = config.hidden_size;
  options.embed_dim = config.embed_dim;
  options.max_inputs =
      std::max<int64_t>({config.hidden_size, shard.ffn_columns.size(),
                         shard.qkv.query_columns()});
  return options;
}

}  // namespace h2o
