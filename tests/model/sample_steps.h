// A model that is never loaded, and a plan and a result of it in which every
// field has a value of its own.
#pragma once

#include <vector>

#include "model/model_config.h"
#include "model/step.h"
#include "tests/model/small_config.h"

namespace h2o {

inline ModelConfig SampleConfig() {
  ModelConfig config = SmallConfig();
  config.qkv = {3, 3, 8};
  config.hidden_size = config.embed_dim = 24;
  config.vocab_size = 100;
  config.max_positions = 64;
  config.activation = Activation::kGelu;
  config.bias = false;
  return config;
}

inline StepPlan SamplePlan() {
  SequenceSpec sequence;
  sequence.id = 7;
  sequence.prompt = {2, 99, 0};
  sequence.max_tokens = 3;
  sequence.ignore_eos = true;
  sequence.sampling = {.temperature = 0.5f,
                       .top_k = 4,
                       .top_p = 0.9f,
                       .seed = 0xffffffffffffffffu};
  sequence.policy.name = KvPolicyName::kH2o;
  for (int head = 0; head < 6; ++head) {
    sequence.policy.slots.push_back({.sinks = 0,
                                     .heavy = head,
                                     .recent = 2,
                                     .prefill_recent = 1,
                                     .score_rule = ScoreRule::kSum});
  }
  sequence.trace = true;
  sequence.forced = {5, 6};
  sequence.logits = true;
  StepPlan plan;
  plan.step = 12;
  plan.retire = {3, 4};
  plan.admit = {sequence};
  plan.prefill = {{.sequence_ids = {7, 8}, .layer_begin = 0, .layer_end = 2}};
  plan.decode = {1, 2};
  return plan;
}

inline StepResult SampleResult() {
  StepResult result;
  result.step = 12;
  result.checksum = 0xfedcba9876543210u;
  result.tokens = {
      {.sequence_id = 1, .token = 99, .finish = FinishReason::kStop},
      {.sequence_id = 2, .token = 0}};
  result.trace = {
      {.sequence_id = 1, .layer = 1, .head = 2, .pos = -1, .kept = {0, 5}},
      {.sequence_id = 1, .layer = 0, .head = 0, .pos = 9, .evicted = 4}};
  result.logits = {{.sequence_id = 1,
                    .first_position = 3,
                    .rows = std::vector<float>(200, 0.25f)}};
  result.logprobs = {
      {.sequence_id = 1,
       .first_position = 4,
       .rows = {{.chosen = {99, -0.5f}, .top = {{99, -0.5f}, {3, -1}}}}}};
  result.scores = {{.sequence_id = 1, .queries = 9, .sum = 17.5}};
  result.prefill_seconds = 0.5;
  result.decode_seconds = 0.25;
  result.slowest_layer_seconds = 0.125;
  result.idle_seconds = 0.0625;
  result.sum_wait_seconds = 0.03125;
  return result;
}

}  // namespace h2o
