// Family: the architecture that "model_type" of config.json names.  A family is
// one row of data and one reader, in a file of its own in families/; nothing
// else in the engine knows it by name.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/model_config.h"
#include "model/weight_map.h"

namespace h2o {

class ConfigReader;

struct Family {
  const char* model_type;
  TensorNames names;
  // Tensors that checkpoints may hold and nobody needs, without the prefix.
  std::span<const char* const> ignored;
  // Fills all of `config` but its name and family; errors go to `reader`.
  void (*read)(ConfigReader* reader, ModelConfig* config);
  // Configs of released models, for dummy weights.
  std::vector<ModelConfig> (*built_ins)();
};

// Errors: INVALID_ARGUMENT naming the families there are.
absl::StatusOr<const Family*> FindFamily(std::string_view model_type);

// All families, in the order in which people are shown them.
std::vector<const Family*> Families();

}  // namespace h2o
