// The config of a model that is never loaded: for tests of what goes around it.
#pragma once

#include "model/model_config.h"

namespace h2o {

inline ModelConfig SmallConfig() {
  ModelConfig config;
  config.name = "small";
  config.family = "opt";
  config.num_layers = 2;
  config.qkv = {2, 2, 8};
  config.hidden_size = 16;
  config.ffn_dim = 32;
  config.vocab_size = 1000;
  config.max_positions = 512;
  config.embed_dim = 16;
  config.stop_tokens = {2};
  return config;
}

}  // namespace h2o
