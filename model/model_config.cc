#include "model/model_config.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/kv_page.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::json;

// Well above every OPT, low enough that no product of sizes overflows 64 bits.
constexpr int kMaxLayers = 1 << 12;
constexpr int kMaxHidden = 1 << 17;
constexpr int kMaxFfn = 1 << 20;
constexpr int kMaxVocabulary = 1 << 24;
constexpr int kMaxHeadDim = 256;

// OPT's position table has this many rows before position 0.
constexpr int kPositionOffset = 2;

// Typed reads of one config.json; remembers the first error, so that a reader
// is a list of lines and not of ifs.
class Reader {
 public:
  Reader(const json& values, std::string what)
      : values_(values), what_(std::move(what)) {}

  // An integer in [low, high]; `missing` where the key is absent or null.
  void Int(const char* key, int low, int high, int missing, int* out) {
    *out = missing;
    if (const json* value = Find(key)) ReadInt(key, *value, low, high, out);
  }
  void RequiredInt(const char* key, int low, int high, int* out) {
    *out = low;
    const json* value = Find(key);
    if (value == nullptr) {
      Fail(absl::StrCat("\"", key, "\" is missing; it must be ",
                        IntegerFrom(low, high)));
    } else {
      ReadInt(key, *value, low, high, out);
    }
  }
  // A token id, or a list of just one.
  void Token(const char* key, int vocab_size, int missing, int* out) {
    *out = missing;
    const json* value = Find(key);
    if (value == nullptr) return;
    if (value->is_array() && value->size() == 1) value = &value->front();
    ReadInt(key, *value, 0, vocab_size - 1, out);
  }
  void Bool(const char* key, bool missing, bool* out) {
    *out = missing;
    const json* value = Find(key);
    if (value == nullptr) return;
    if (value->is_boolean()) {
      *out = value->get<bool>();
    } else {
      Wrong(key, *value, "true or false");
    }
  }
  // One of `allowed`; returns its index, or `missing`.
  template <size_t n>
  int Word(const char* key, const std::array<const char*, n>& allowed,
           int missing) {
    const json* value = Find(key);
    if (value == nullptr) return missing;
    if (value->is_string()) {
      for (size_t i = 0; i < n; ++i) {
        if (value->get_ref<const std::string&>() == allowed[i]) {
          return static_cast<int>(i);
        }
      }
    }
    Wrong(key, *value,
          absl::StrCat("\"", absl::StrJoin(allowed, "\" or \""), "\""));
    return missing;
  }
  bool Has(const char* key) const { return Find(key) != nullptr; }

  void Fail(const std::string& message) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(what_, ": ", message));
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  static std::string IntegerFrom(int low, int high) {
    return absl::StrCat("an integer from ", low, " to ", high);
  }
  const json* Find(const char* key) const {
    const auto it = values_.find(key);
    return it == values_.end() || it->is_null() ? nullptr : &*it;
  }
  void ReadInt(const char* key, const json& value, int low, int high,
               int* out) {
    // A number above 2^63 is unsigned and would wrap around as int64.
    const bool fits =
        value.is_number_integer() &&
        !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
    if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high) {
      Wrong(key, value, IntegerFrom(low, high));
      return;
    }
    *out = value.get<int>();
  }
  void Wrong(const char* key, const json& value, const std::string& right) {
    Fail(absl::StrCat("\"", key, "\" is ", Describe(value), "; it must be ",
                      right));
  }

  const json& values_;
  const std::string what_;
  absl::Status status_;
};

struct BuiltIn {
  const char* name;
  int num_layers, num_heads, hidden_size, embed_dim;
  Block block;
};

constexpr std::array<BuiltIn, 9> kBuiltIns = {{
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

}  // namespace

int64_t ModelConfig::num_parameters() const {
  const int64_t hidden = hidden_size, ffn = ffn_dim;
  const int64_t norm = norm_affine ? 2 * hidden : 0;
  const int64_t attention = qkv.columns() + qkv.query_columns();
  int64_t layer = attention * hidden + 2 * hidden * ffn + 2 * norm;
  if (bias) layer += qkv.columns() + 2 * hidden + ffn;
  const int64_t embedding = static_cast<int64_t>(vocab_size) * embed_dim;
  int64_t total = (tied_head ? 1 : 2) * embedding + num_layers * layer +
                  (max_positions + int64_t{position_offset}) * hidden;
  if (final_norm) total += norm;
  if (has_projections()) total += 2 * hidden * embed_dim;
  return total;
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view text,
                                             std::string_view name) {
  ModelConfig config;
  config.name = std::string(name);
  const std::string what = absl::StrCat("config.json of ", config.name);
  H2O_ASSIGN_OR_RETURN(const json values, ParseJsonObject(text, what));
  Reader read(values, what);

  if (!read.Has("model_type")) {
    read.Fail("\"model_type\" is missing; it must be \"opt\"");
  }
  read.Word("model_type", std::array{"opt"}, 0);
  read.RequiredInt("num_hidden_layers", 1, kMaxLayers, &config.num_layers);
  read.RequiredInt("hidden_size", 1, kMaxHidden, &config.hidden_size);
  read.RequiredInt("num_attention_heads", 1, kMaxHidden, &config.qkv.heads);
  read.RequiredInt("vocab_size", 1, kMaxVocabulary, &config.vocab_size);
  // What is absent has the value that Hugging Face's OPTConfig gives it.
  read.Int("ffn_dim", 1, kMaxFfn, 3072, &config.ffn_dim);
  read.Int("max_position_embeddings", 1, kMaxPositions, 2048,
           &config.max_positions);
  read.Int("word_embed_proj_dim", 1, kMaxHidden, config.hidden_size,
           &config.embed_dim);
  config.activation = static_cast<Activation>(
      read.Word("activation_function", std::array{"relu", "gelu"}, 0));
  bool norm_before = true, remove_final_norm = false;
  read.Bool("do_layer_norm_before", true, &norm_before);
  read.Bool("_remove_final_layer_norm", false, &remove_final_norm);
  read.Bool("layer_norm_elementwise_affine", true, &config.norm_affine);
  read.Bool("enable_bias", true, &config.bias);
  read.Bool("tie_word_embeddings", true, &config.tied_head);
  config.position_offset = kPositionOffset;
  config.block = norm_before ? Block::kPreNorm : Block::kPostNorm;
  config.final_norm = norm_before && !remove_final_norm;
  int eos_token = 0;
  read.Token("eos_token_id", config.vocab_size, 2, &eos_token);
  config.stop_tokens = {eos_token};
  // "torch_dtype" until transformers 4, "dtype" since.  In DType's order.
  config.checkpoint_dtype =
      static_cast<DType>(read.Word(read.Has("dtype") ? "dtype" : "torch_dtype",
                                   std::array{"float32", "bfloat16", "float16"},
                                   static_cast<int>(DType::kFloat16)));
  H2O_RETURN_IF_ERROR(read.status());

  config.qkv.kv_heads = config.qkv.heads;
  config.qkv.head_dim = config.hidden_size / config.qkv.heads;
  if (config.hidden_size % config.qkv.heads != 0) {
    read.Fail(absl::StrCat("\"num_attention_heads\" is ", config.qkv.heads,
                           "; it must divide \"hidden_size\", ",
                           config.hidden_size));
  } else if (config.qkv.head_dim > kMaxHeadDim) {
    read.Fail(absl::StrCat("\"hidden_size\" ", config.hidden_size, " over ",
                           "\"num_attention_heads\" ", config.qkv.heads, " is ",
                           config.qkv.head_dim, " a head; at most ",
                           kMaxHeadDim, " are supported"));
  }
  // The default id, too, must exist.
  if (eos_token >= config.vocab_size) {
    read.Fail(absl::StrCat("\"eos_token_id\" is ", eos_token,
                           "; it must be below \"vocab_size\", ",
                           config.vocab_size));
  }
  H2O_RETURN_IF_ERROR(read.status());
  return config;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory) {
  const std::filesystem::path path(directory);
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    return absl::NotFoundError(absl::StrCat(
        "no model directory ", directory,
        "; it must be a directory with config.json (or, with dummy weights, ",
        "one of ", absl::StrJoin(BuiltInModelConfigNames(), ", "), ")"));
  }
  H2O_ASSIGN_OR_RETURN(const std::string text,
                       ReadWholeFile((path / "config.json").string()));
  // "models/opt-demo/" has an empty last part.
  const auto name =
      path.has_filename() ? path.filename() : path.parent_path().filename();
  return ParseModelConfig(text, name.string());
}

absl::StatusOr<ModelConfig> BuiltInModelConfig(std::string_view name) {
  for (const BuiltIn& b : kBuiltIns) {
    if (name != b.name) continue;
    ModelConfig config;
    config.name = b.name;
    config.num_layers = b.num_layers;
    config.qkv = {b.num_heads, b.num_heads, b.hidden_size / b.num_heads};
    config.hidden_size = b.hidden_size;
    config.ffn_dim = 4 * b.hidden_size;
    config.vocab_size = 50272;
    config.max_positions = 2048;
    config.embed_dim = b.embed_dim;
    config.position_offset = kPositionOffset;
    config.block = b.block;
    config.final_norm = b.block == Block::kPreNorm;
    config.stop_tokens = {2};
    return config;
  }
  return absl::NotFoundError(
      absl::StrCat("no built-in config \"", std::string(name), "\"; there are ",
                   absl::StrJoin(BuiltInModelConfigNames(), ", ")));
}

std::vector<std::string> BuiltInModelConfigNames() {
  std::vector<std::string> names;
  for (const BuiltIn& b : kBuiltIns) names.push_back(b.name);
  return names;
}

absl::Status ValidateTensorParallel(const ModelConfig& config, int size) {
  // A rank without FFN columns or vocabulary rows would be as idle as one
  // without heads; no real OPT has fewer of those than heads.
  const int largest =
      std::min({config.qkv.kv_heads, config.ffn_dim, config.vocab_size});
  if (size >= 1 && size <= largest) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor parallel size ", size, " does not work for ", config.name,
      ": every rank needs a head, so it must be from 1 to ", largest));
}

}  // namespace h2o
