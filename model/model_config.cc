// Reads config.json by way of the family that its "model_type" names.
#include "model/model_config.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/config_reader.h"
#include "model/family.h"
#include "model/json_file.h"
#include "model/quantization_json.h"
#include "model/weight_map.h"

namespace h2o {

int64_t ModelConfig::num_parameters() const {
  const absl::StatusOr<const Family*> of = FindFamily(family);
  H2O_CHECK(of.ok()) << of.status();
  return CountParameters(MapWeights((*of)->names, *this, Shard(0, 1)));
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json,
                                             std::string_view name) {
  ModelConfig config;
  config.name = std::string(name);
  const std::string what = absl::StrCat("config.json of ", config.name);
  H2O_ASSIGN_OR_RETURN(const nlohmann::json values,
                       ParseJsonObject(json, what));
  ConfigReader reader(values, what);
  const std::vector<const Family*> families = Families();
  std::vector<const char*> types;
  for (const Family* family : families) types.push_back(family->model_type);
  const int chosen = reader.RequiredWord("model_type", types);
  H2O_RETURN_IF_ERROR(reader.status());
  config.family = types[chosen];
  families[chosen]->read(&reader, &config);
  H2O_RETURN_IF_ERROR(reader.status());
  constexpr char kQuantization[] = "quantization_config";
  if (reader.Has(kQuantization)) {
    H2O_ASSIGN_OR_RETURN(
        config.quantization,
        ReadQuantizationConfig(values[kQuantization],
                               absl::StrCat(what, ": ", kQuantization)));
  }
  return config;
}

absl::Status ApplyGenerationConfig(std::string_view json, ModelConfig* config) {
  const std::string what =
      absl::StrCat("generation_config.json of ", config->name);
  H2O_ASSIGN_OR_RETURN(const nlohmann::json values,
                       ParseJsonObject(json, what));
  ConfigReader reader(values, what);
  reader.StopTokens("eos_token_id", config->vocab_size, &config->stop_tokens);
  return reader.status();
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
  H2O_ASSIGN_OR_RETURN(ModelConfig config,
                       ParseModelConfig(text, name.string()));
  const auto generation =
      ReadWholeFile((path / "generation_config.json").string());
  if (absl::IsNotFound(generation.status())) return config;
  H2O_RETURN_IF_ERROR(generation.status());
  H2O_RETURN_IF_ERROR(ApplyGenerationConfig(*generation, &config));
  return config;
}

absl::StatusOr<ModelConfig> BuiltInModelConfig(std::string_view name) {
  for (const Family* family : Families()) {
    for (ModelConfig& config : family->built_ins()) {
      if (config.name != name) continue;
      config.family = family->model_type;
      return std::move(config);
    }
  }
  return absl::NotFoundError(
      absl::StrCat("no built-in config \"", std::string(name), "\"; there are ",
                   absl::StrJoin(BuiltInModelConfigNames(), ", ")));
}

std::vector<std::string> BuiltInModelConfigNames() {
  std::vector<std::string> names;
  for (const Family* family : Families()) {
    for (const ModelConfig& config : family->built_ins()) {
      names.push_back(config.name);
    }
  }
  return names;
}

absl::Status ValidateTensorParallel(const ModelConfig& config, int size) {
  // Every rank needs a KV head, FFN columns and vocabulary rows.  Real models
  // have the fewest of KV heads.
  const int largest =
      std::min({config.qkv.kv_heads, config.ffn_dim, config.vocab_size});
  if (size >= 1 && size <= largest) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor parallel size ", size, " does not work for ", config.name,
      ": every rank needs a head, so it must be from 1 to ", largest));
}

}  // namespace h2o
