// A model small enough that a test of it takes milliseconds: 6 heads, so that
// it splits unevenly over 4 ranks.
#pragma once

#include "model/model_config.h"

namespace h2o {

inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.name = "tiny";
  config.family = "opt";
  config.num_layers = 3;
  config.qkv = {6, 6, 16};
  config.hidden_size = 96;
  config.ffn_dim = 200;
  config.vocab_size = 150;
  config.max_positions = 256;
  config.position_offset = 2;
  config.embed_dim = 96;
  config.stop_tokens = {2};
  return config;
}

}  // namespace h2o
