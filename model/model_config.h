// ModelConfig: what one decoder-only transformer is, as data.  A family's
// reader makes it from config.json (model/families/) and validates it; it is
// const from then on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "base/qkv_layout.h"
#include "model/quantization_config.h"
#include "parallel/shard_spec.h"

namespace h2o {

enum class Activation : uint8_t { kRelu, kGelu };

// Where a layer normalizes the residual x.
enum class Block : uint8_t {
  kPreNorm,   // x += attention(norm1(x)); x += mlp(norm2(x))
  kPostNorm,  // x = norm1(x + attention(x)); x = norm2(x + mlp(x)): OPT-350m
};

struct ModelConfig {
  std::string name;    // directory's or built-in config's name, for people
  std::string family;  // "model_type" of config.json
  int num_layers = 0;
  QkvLayout qkv;         // of the whole model, as it lies in memory
  int head_padding = 0;  // zeros behind each head there, not in the checkpoint
  int hidden_size = 0;   // width of the residual
  int ffn_dim = 0;
  int vocab_size = 0;
  int max_positions = 0;    // longest sequence, in tokens
  int position_offset = 0;  // rows of the position table before position 0
  int embed_dim = 0;        // of embeddings; != hidden_size: projections
  Activation activation = Activation::kRelu;
  Block block = Block::kPreNorm;
  float norm_epsilon = 1e-5f;  // added to the variance
  bool norm_affine = true;     // norms have a weight and a bias
  bool final_norm = true;      // before the head
  bool bias = true;            // linear layers other than the head have one
  bool tied_head = true;       // the head is the token embedding
  std::vector<int32_t> stop_tokens;  // each ends a text
  DType checkpoint_dtype = DType::kFloat16;
  QuantizationConfig quantization;  // of the linear layers of layers

  bool has_projections() const { return embed_dim != hidden_size; }
  int64_t num_parameters() const;  // REQUIRES: a known family
  int stored_head_dim() const { return qkv.head_dim - head_padding; }

  ShardSpec Shard(int rank, int size) const {
    return ShardSpec::Of(rank, size, qkv, ffn_dim, vocab_size);
  }

  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

// Reads DIR/config.json, and DIR/generation_config.json if there is one.
// Errors: NOT_FOUND without config.json, DATA_LOSS if a file is not JSON,
// INVALID_ARGUMENT naming a value that is not supported (an unknown model_type,
// heads that do not divide hidden_size, 0 heads, ...) and what would be right.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory);

// From the text of a config.json.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json,
                                             std::string_view name);

// From the text of a generation_config.json: the stop tokens, if it has any.
absl::Status ApplyGenerationConfig(std::string_view json, ModelConfig* config);

// A released model's, such as "opt-125m".  Errors: NOT_FOUND listing the names.
absl::StatusOr<ModelConfig> BuiltInModelConfig(std::string_view name);
std::vector<std::string> BuiltInModelConfigNames();

// Every rank needs at least one head.
// Errors: INVALID_ARGUMENT naming `size` and the largest that works.
absl::Status ValidateTensorParallel(const ModelConfig& config, int size);

}  // namespace h2o
