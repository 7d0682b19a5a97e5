// ModelConfig: the fixed numbers of one OPT model, as its config.json says
// them. Validated once, const from then on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "parallel/shard_spec.h"

namespace h2o {

enum class Activation : uint8_t { kRelu, kGelu };

struct ModelConfig {
  std::string name;  // directory's or built-in config's name, for people
  int num_layers = 0;
  int num_heads = 0;
  int hidden_size = 0;  // num_heads * head_dim
  int ffn_dim = 0;
  int vocab_size = 0;
  int max_positions = 0;  // without the two rows OPT's table has in front
  int embed_dim = 0;      // word_embed_proj_dim; != hidden_size: projections
  Activation activation = Activation::kRelu;
  bool pre_layer_norm = true;     // do_layer_norm_before
  bool final_layer_norm = true;   // pre_layer_norm and not _remove_final_..
  bool layer_norm_affine = true;  // layer_norm_elementwise_affine
  bool bias = true;               // enable_bias
  bool tied_head = true;          // tie_word_embeddings
  int bos_token = 2;
  int eos_token = 2;
  DType checkpoint_dtype = DType::kFloat16;  // "dtype" or "torch_dtype"

  int head_dim() const { return hidden_size / num_heads; }
  bool has_projections() const { return embed_dim != hidden_size; }
  int64_t num_parameters() const;

  ShardSpec Shard(int rank, int size) const {
    return ShardSpec::Of(rank, size, num_heads, ffn_dim, vocab_size);
  }
};

// OPT's position table has this many rows before position 0.
inline constexpr int kPositionOffset = 2;

// Reads DIR/config.json.  Errors: NOT_FOUND without the file, DATA_LOSS if it
// is not JSON, INVALID_ARGUMENT naming a value that cannot be (another
// model_type, heads that do not divide hidden_size, 0 heads, an activation
// other than relu or gelu, ...) and what would be right.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory);

// From the text of a config.json.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json,
                                             std::string_view name);

// "opt-125m" .. "opt-175b".  Errors: NOT_FOUND listing the names.
absl::StatusOr<ModelConfig> BuiltInModelConfig(std::string_view name);
std::vector<std::string> BuiltInModelConfigNames();

// Every rank needs at least one head.
// Errors: INVALID_ARGUMENT naming `size` and the largest that works.
absl::Status ValidateTensorParallel(const ModelConfig& config, int size);

}  // namespace h2o
