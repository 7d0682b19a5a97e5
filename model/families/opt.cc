// OPT: its tensor names, its config.json and its released sizes.
#include "model/families/opt.h"

#include <algorithm>
#include <array>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/head_dim.h"
#include "base/kv_page.h"
#include "model/config_reader.h"

namespace h2o {
namespace {

// Well above every OPT, low enough that no product of sizes overflows 64 bits.
constexpr int kMaxLayers = 1 << 12;
constexpr int kMaxHidden = 1 << 17;
constexpr int kMaxFfn = 1 << 20;
constexpr int kMaxVocabulary = 1 << 24;

// The position table has this many rows before position 0.
constexpr int kPositionOffset = 2;

// A counter of fairseq, in which OPT was trained.
constexpr const char* kIgnored[] = {"decoder.version"};

void ReadSizes(ConfigReader* read, ModelConfig* config) {
  read->RequiredInt("num_hidden_layers", 1, kMaxLayers, &config->num_layers);
  read->RequiredInt("hidden_size", 1, kMaxHidden, &config->hidden_size);
  read->RequiredInt("num_attention_heads", 1, kMaxHidden, &config->qkv.heads);
  read->RequiredInt("vocab_size", 1, kMaxVocabulary, &config->vocab_size);
  read->Int("ffn_dim", 1, kMaxFfn, 3072, &config->ffn_dim);
  read->Int("max_position_embeddings", 1, kMaxPositions, 2048,
            &config->max_positions);
  read->Int("word_embed_proj_dim", 1, kMaxHidden, config->hidden_size,
            &config->embed_dim);
  config->position_offset = kPositionOffset;
  const int heads = std::max(config->qkv.heads, 1);
  config->qkv.kv_heads = config->qkv.heads;
  const int head_dim = config->hidden_size / heads;
  config->qkv.head_dim = PaddedHeadDim(head_dim);
  config->head_padding = config->qkv.head_dim - head_dim;
}

void ReadLayer(ConfigReader* read, ModelConfig* config) {
  config->activation = static_cast<Activation>(
      read->Word("activation_function", {"relu", "gelu"}, 0));
  bool norm_before = true, remove_final_norm = false;
  read->Bool("do_layer_norm_before", true, &norm_before);
  read->Bool("_remove_final_layer_norm", false, &remove_final_norm);
  read->Bool("layer_norm_elementwise_affine", true, &config->norm_affine);
  read->Bool("enable_bias", true, &config->bias);
  read->Bool("tie_word_embeddings", true, &config->tied_head);
  config->block = norm_before ? Block::kPreNorm : Block::kPostNorm;
  config->final_norm = norm_before && !remove_final_norm;
}

void CheckHeads(ConfigReader* read, const ModelConfig& config) {
  const QkvLayout& qkv = config.qkv;
  if (config.hidden_size % qkv.heads != 0) {
    read->Fail(absl::StrCat("\"num_attention_heads\" is ", qkv.heads,
                            "; it must divide \"hidden_size\", ",
                            config.hidden_size));
  } else if (config.stored_head_dim() > kMaxHeadDim) {
    read->Fail(absl::StrCat("\"hidden_size\" ", config.hidden_size,
                            " over \"num_attention_heads\" ", qkv.heads, " is ",
                            config.stored_head_dim(), " a head; at most ",
                            kMaxHeadDim, " are supported"));
  }
}

// A key that is absent has the value that Hugging Face's OPTConfig gives it.
void Read(ConfigReader* read, ModelConfig* config) {
  ReadSizes(read, config);
  ReadLayer(read, config);
  config->stop_tokens = {2};
  read->StopTokens("eos_token_id", config->vocab_size, &config->stop_tokens);
  // "torch_dtype" until transformers 4, "dtype" since.  In DType's order.
  config->checkpoint_dtype = static_cast<DType>(read->Word(
      read->Has("dtype") ? "dtype" : "torch_dtype",
      {"float32", "bfloat16", "float16"}, static_cast<int>(DType::kFloat16)));
  if (!read->status().ok()) return;
  CheckHeads(read, *config);
  // The default id, too, must exist.
  if (config->stop_tokens[0] >= config->vocab_size) {
    read->Fail(absl::StrCat("\"eos_token_id\" is ", config->stop_tokens[0],
                            "; it must be below \"vocab_size\", ",
                            config->vocab_size));
  }
}

struct Size {
  const char* name;
  int num_layers, num_heads, hidden_size, embed_dim;
  Block block;
};

constexpr std::array<Size, 9> kSizes = {{
    {"opt-125m", 12, 12, 768, 768, Block::kPreNorm},
    {"opt-350m", 24, 16, 1024, 512, Block::kPostNorm},
    {"opt-1.3b", 24, 32, 2048, 2048, Block::kPreNorm},
    {"opt-2.7b", 32, 32, 2560, 2560, Block::kPreNorm},
    {"opt-6.7b", 32, 32, 4096, 4096, Block::kPreNorm},
    {"opt-13b", 40, 40, 5120, 5120, Block::kPreNorm},
    {"opt-30b", 48, 56, 7168, 7168, Block::kPreNorm},
    {"opt-66b", 64, 72, 9216, 9216, Block::kPreNorm},
    {"opt-175b", 96, 96, 12288, 12288, Block::kPreNorm},
}};

std::vector<ModelConfig> BuiltIns() {
  std::vector<ModelConfig> configs;
  for (const Size& size : kSizes) {
    ModelConfig& config = configs.emplace_back();
    config.name = size.name;
    config.num_layers = size.num_layers;
    config.qkv = {size.num_heads, size.num_heads,
                  size.hidden_size / size.num_heads};
    config.hidden_size = size.hidden_size;
    config.ffn_dim = 4 * size.hidden_size;
    config.vocab_size = 50272;
    config.max_positions = 2048;
    config.position_offset = kPositionOffset;
    config.embed_dim = size.embed_dim;
    config.block = size.block;
    config.final_norm = size.block == Block::kPreNorm;
    config.stop_tokens = {2};
  }
  return configs;
}

}  // namespace

constinit const Family kOptFamily = {
    .model_type = "opt",
    .names = {.prefix = "model.",
              .token_embedding = "decoder.embed_tokens",
              .position_embedding = "decoder.embed_positions",
              .project_in = "decoder.project_in",
              .project_out = "decoder.project_out",
              .final_norm = "decoder.final_layer_norm",
              .head = "lm_head",
              .layer = "decoder.layers.",
              .attention_norm = "self_attn_layer_norm",
              .q = "self_attn.q_proj",
              .k = "self_attn.k_proj",
              .v = "self_attn.v_proj",
              .out = "self_attn.out_proj",
              .ffn_norm = "final_layer_norm",
              .fc1 = "fc1",
              .fc2 = "fc2"},
    .ignored = kIgnored,
    .read = Read,
    .built_ins = BuiltIns};

}  // namespace h2o
