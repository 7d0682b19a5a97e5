// The weights of one rank: its slices of a checkpoint, or random ones of the
// same shapes, in memory of the device, read once.
//
// model/weight_map.h says how they are cut.  The biases of `out` and `fc2`,
// whose products are summed over ranks, are added after the sum, by every rank.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/model_config.h"
#include "model/safetensors.h"
#include "model/step.h"
#include "model/weight_map.h"

namespace h2o {

struct LayerWeights {
  LayerNormWeights attention_norm;
  LinearWeights qkv;  // [shard.qkv.columns(), hidden]
  LinearWeights out;  // [hidden, shard.qkv.query_columns()], without its bias
  const void* out_bias = nullptr;  // [hidden]; null: none
  LayerNormWeights ffn_norm;
  LinearWeights fc1;               // [local ffn, hidden]
  LinearWeights fc2;               // [hidden, local ffn], without its bias
  const void* fc2_bias = nullptr;  // [hidden]; null: none
};

struct ShardWeights {
  StoredMatrix token_embedding;     // [local vocabulary, embed_dim]
  StoredMatrix position_embedding;  // [position_offset + max_positions, hidden]
  LinearWeights project_in;         // [hidden, embed_dim], if has_projections
  LinearWeights project_out;        // [embed_dim, hidden], likewise
  LayerNormWeights final_norm;      // if config.final_norm
  LinearWeights head;               // [local vocabulary, embed_dim]
  std::vector<LayerWeights> layers;

  Buffer memory;  // all of the above

  // Of tables of which a step reads only the rows of its tokens and positions.
  int64_t looked_up_bytes() const {
    const bool tied = head.weight.data == token_embedding.data;
    return position_embedding.bytes() + (tied ? 0 : token_embedding.bytes());
  }
};

struct WeightOptions {
  // Null: dummy weights of `dtype`.  An element depends on `dummy_seed`, the
  // tensor's name and the element's index in the whole tensor, so it is the
  // same for every number of ranks.
  const Checkpoint* checkpoint = nullptr;
  uint64_t dummy_seed = 0;
  // bf16 and fp16: weights are converted to it.  float32: weights stay as the
  // checkpoint has them, since 16 bits are widened later without loss.  Biases
  // are stored as the backend adds them.
  DType dtype = DType::kFloat32;
  // Codes of the linear layers of layers; a plain format: there are none.  Of a
  // checkpoint that stores codes: those.
  WeightCoding coding = {};
  int num_threads = 1;
  std::function<void(double fraction)> progress;  // may be empty
};

// Errors: FAILED_PRECONDITION naming a tensor that is missing, that the config
// does not ask for, whose shape disagrees with it, or that holds a number too
// large for `dtype`; DATA_LOSS naming one that holds NaN, infinity or, of
// scales, 0;
// RESOURCE_EXHAUSTED if memory is short.
absl::StatusOr<ShardWeights> LoadShardWeights(const ModelConfig& config,
                                              const ShardSpec& shard,
                                              const WeightOptions& options,
                                              Backend* backend);

// The same of the parts that `map` has; the others stay empty.  `rank` and
// `size` are for messages.
absl::StatusOr<ShardWeights> LoadMappedWeights(const WeightMap& map,
                                               float norm_epsilon, int rank,
                                               int size,
                                               const WeightOptions& options,
                                               Backend* backend);

}  // namespace h2o
