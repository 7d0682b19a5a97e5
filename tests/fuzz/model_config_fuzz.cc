// Fuzzes the readers of config.json and generation_config.json.  A config that
// is taken must be one that the rest of the program can compute with.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/model_config.h"

namespace h2o {
namespace {

void RunGeneration(std::string_view json) {
  ModelConfig config = BuiltInModelConfig("opt-125m").value();
  const absl::Status status = ApplyGenerationConfig(json, &config);
  H2O_CHECK(status.ok() || !status.message().empty());
  H2O_CHECK(!config.stop_tokens.empty());
  for (int32_t token : config.stop_tokens) {
    H2O_CHECK(!status.ok() || (token >= 0 && token < config.vocab_size));
  }
}

void Run(std::string_view json) {
  const auto config = ParseModelConfig(json, "fuzz");
  if (!config.ok()) {
    H2O_CHECK(!config.status().message().empty());
    return;
  }
  H2O_CHECK(config->num_layers > 0 && config->qkv.kv_heads > 0);
  H2O_CHECK(config->stored_head_dim() > 0 && config->ffn_dim > 0);
  H2O_CHECK(config->head_padding >= 0);
  H2O_CHECK(config->qkv.heads % config->qkv.kv_heads == 0);
  H2O_CHECK(!config->stop_tokens.empty());
  H2O_CHECK(config->vocab_size > 0 && config->max_positions > 0);
  H2O_CHECK(config->num_parameters() > 0);
  for (int size : {1, 2, 3, 8}) {
    if (!ValidateTensorParallel(*config, size).ok()) continue;
    for (int rank = 0; rank < size; ++rank) (void)config->Shard(rank, size);
  }
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run({reinterpret_cast<const char*>(data), size});
  h2o::RunGeneration({reinterpret_cast<const char*>(data), size});
  return 0;
}
