// The fields of what a coordinator and its ranks exchange: see byte_codec.h.
// A new field is named here, or the build fails.
#pragma once

#include <tuple>

#include "base/byte_codec.h"
#include "model/model_config.h"
#include "model/model_spec.h"
#include "model/rank_info.h"
#include "model/step.h"

namespace h2o {

auto Fields(Is<SamplingParams> auto& s) {
  auto& [temperature, top_k, top_p, seed, min_p, repetition_penalty,
         frequency_penalty, presence_penalty] = s;
  return std::tie(temperature, top_k, top_p, seed, min_p, repetition_penalty,
                  frequency_penalty, presence_penalty);
}
auto Fields(Is<LogitBias> auto& s) {
  auto& [token, bias] = s;
  return std::tie(token, bias);
}
auto Fields(Is<KvSlots> auto& s) {
  auto& [sinks, heavy, recent, prefill_recent, score_rule] = s;
  return std::tie(sinks, heavy, recent, prefill_recent, score_rule);
}
auto Fields(Is<KvPolicy> auto& s) {
  auto& [name, slots] = s;
  return std::tie(name, slots);
}
auto Fields(Is<SequenceSpec> auto& s) {
  auto& [id, prompt, max_tokens, ignore_eos, sampling, policy, trace, forced,
         generated, logits, scores, logit_bias, stop_tokens, min_tokens,
         top_logprobs, prompt_logprobs, fork_of] = s;
  return std::tie(id, prompt, max_tokens, ignore_eos, sampling, policy, trace,
                  forced, generated, logits, scores, logit_bias, stop_tokens,
                  min_tokens, top_logprobs, prompt_logprobs, fork_of);
}
auto Fields(Is<PrefillSlice> auto& s) {
  auto& [sequence_ids, layer_begin, layer_end] = s;
  return std::tie(sequence_ids, layer_begin, layer_end);
}
auto Fields(Is<StepPlan> auto& s) {
  auto& [step, retire, admit, prefill, decode] = s;
  return std::tie(step, retire, admit, prefill, decode);
}

auto Fields(Is<TokenResult> auto& s) {
  auto& [sequence_id, token, finish] = s;
  return std::tie(sequence_id, token, finish);
}
auto Fields(Is<HeadTrace> auto& s) {
  auto& [sequence_id, layer, head, pos, evicted, kept] = s;
  return std::tie(sequence_id, layer, head, pos, evicted, kept);
}
auto Fields(Is<LogitRows> auto& s) {
  auto& [sequence_id, first_position, rows] = s;
  return std::tie(sequence_id, first_position, rows);
}
auto Fields(Is<TokenLogprob> auto& s) {
  auto& [token, logprob] = s;
  return std::tie(token, logprob);
}
auto Fields(Is<Logprobs> auto& s) {
  auto& [chosen, top] = s;
  return std::tie(chosen, top);
}
auto Fields(Is<LogprobRows> auto& s) {
  auto& [sequence_id, first_position, rows] = s;
  return std::tie(sequence_id, first_position, rows);
}
auto Fields(Is<KeptScores> auto& s) {
  auto& [sequence_id, queries, sum] = s;
  return std::tie(sequence_id, queries, sum);
}
auto Fields(Is<StepResult> auto& s) {
  auto& [step, checksum, tokens, trace, logits, logprobs, scores,
         prefill_seconds, decode_seconds, slowest_layer_seconds, idle_seconds,
         sum_wait_seconds] = s;
  return std::tie(step, checksum, tokens, trace, logits, logprobs, scores,
                  prefill_seconds, decode_seconds, slowest_layer_seconds,
                  idle_seconds, sum_wait_seconds);
}

auto Fields(Is<ModelSpec> auto& s) {
  auto& [model, dummy, dummy_seed, dtype, kv_dtype, weights, weight_group,
         fp8_activations] = s;
  return std::tie(model, dummy, dummy_seed, dtype, kv_dtype, weights,
                  weight_group, fp8_activations);
}
auto Fields(Is<QkvLayout> auto& s) {
  auto& [heads, kv_heads, head_dim] = s;
  return std::tie(heads, kv_heads, head_dim);
}
auto Fields(Is<WeightCoding> auto& s) {
  auto& [format, group] = s;
  return std::tie(format, group);
}
auto Fields(Is<QuantizationConfig> auto& s) {
  auto& [layout, coding, symmetric, zeros_less_one, rounds_inputs, ignored] = s;
  return std::tie(layout, coding, symmetric, zeros_less_one, rounds_inputs,
                  ignored);
}
auto Fields(Is<ModelConfig> auto& s) {
  auto& [name, family, num_layers, qkv, head_padding, hidden_size, ffn_dim,
         vocab_size, max_positions, position_offset, embed_dim, activation,
         block, norm_epsilon, norm_affine, final_norm, bias, tied_head,
         stop_tokens, checkpoint_dtype, quantization] = s;
  return std::tie(name, family, num_layers, qkv, head_padding, hidden_size,
                  ffn_dim, vocab_size, max_positions, position_offset,
                  embed_dim, activation, block, norm_epsilon, norm_affine,
                  final_norm, bias, tied_head, stop_tokens, checkpoint_dtype,
                  quantization);
}
auto Fields(Is<KvFormat> auto& s) {
  auto& [dtype] = s;
  return std::tie(dtype);
}
auto Fields(Is<KvGeometry> auto& s) {
  auto& [num_layers, num_heads, head_dim, formats] = s;
  return std::tie(num_layers, num_heads, head_dim, formats);
}
auto Fields(Is<MemoryPlan> auto& s) {
  auto& [weights, looked_up, workspace, kv_pool] = s;
  return std::tie(weights, looked_up, workspace, kv_pool);
}
auto Fields(Is<SumTimes> auto& s) {
  auto& [rows, seconds] = s;
  return std::tie(rows, seconds);
}
auto Fields(Is<RankInfo> auto& s) {
  auto& [config, geometry, num_slabs, packed_tokens, fingerprint, memory,
         sums] = s;
  return std::tie(config, geometry, num_slabs, packed_tokens, fingerprint,
                  memory, sums);
}

}  // namespace h2o
