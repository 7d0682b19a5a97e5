// Checks what came from outside: the range of each field, and what fields say
// of each other.
#include "model/step_check.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/kv_page.h"
#include "base/status_macros.h"
#include "kv/kv_geometry.h"
#include "model/family.h"
#include "model/step_fields.h"

namespace h2o {
namespace {

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status InRange(absl::string_view field, int64_t value, int64_t low,
                     int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Bad(field, " is ", value, "; it must be ", low, " to ", high);
}

template <class T>
absl::Status Known(absl::string_view field, T value, T last) {
  return InRange(field, static_cast<int>(value), 0, static_cast<int>(last));
}

absl::Status AtLeast(absl::string_view field, int64_t value, int64_t least) {
  if (value >= least) return absl::OkStatus();
  return Bad(field, " is ", value, "; it must be at least ", least);
}

absl::Status FiniteSeconds(absl::string_view field, double value) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return Bad(field, " is ", value, "; it must be a time of 0 s or more");
}

absl::Status Distinct(absl::string_view field,
                      const std::vector<uint64_t>& ids) {
  absl::flat_hash_set<uint64_t> seen;
  for (uint64_t id : ids) {
    if (!seen.insert(id).second) {
      return Bad(field, " names sequence ", id, " twice");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const std::vector<int32_t>& ids,
                         const ModelConfig& config) {
  for (int32_t id : ids) {
    H2O_RETURN_IF_ERROR(InRange("token id", id, 0, config.vocab_size - 1));
  }
  return absl::OkStatus();
}

// Infinity says that a way cannot sum so many rows.
absl::Status CheckSums(const std::vector<SumTimes>& sums) {
  for (const SumTimes& times : sums) {
    H2O_RETURN_IF_ERROR(AtLeast("rows of a sum", times.rows, 1));
    for (float seconds : times.seconds) {
      if (seconds >= 0) continue;
      return Bad("a sum took ", seconds, " s; it must be 0 s or more");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckQkv(const QkvLayout& qkv, int64_t most) {
  H2O_RETURN_IF_ERROR(InRange("heads", qkv.heads, 1, most));
  H2O_RETURN_IF_ERROR(InRange("kv_heads", qkv.kv_heads, 1, qkv.heads));
  if (qkv.heads % qkv.kv_heads != 0) {
    return Bad("kv_heads is ", qkv.kv_heads, "; it must divide heads, ",
               qkv.heads);
  }
  return InRange("head_dim", qkv.head_dim, 1, most);
}

absl::Status CheckPolicy(const KvPolicy& policy, const ModelConfig& config) {
  H2O_RETURN_IF_ERROR(Known("policy", policy.name, KvPolicyName::kSink));
  const int64_t all_heads = int64_t{config.num_layers} * config.qkv.kv_heads;
  const int64_t entries = policy.slots.size();
  if (entries != 1 && entries != all_heads) {
    return Bad("slots has ", entries,
               " entries; it must have 1, or one for each of the ", all_heads,
               " heads of all layers");
  }
  for (const KvSlots& s : policy.slots) {
    H2O_RETURN_IF_ERROR(InRange("sinks", s.sinks, 0, kMaxPositions));
    H2O_RETURN_IF_ERROR(InRange("heavy", s.heavy, 0, kMaxPositions));
    H2O_RETURN_IF_ERROR(InRange("recent", s.recent, 1, kMaxPositions));
    H2O_RETURN_IF_ERROR(
        InRange("prefill_recent", s.prefill_recent, 0, kMaxPositions));
    H2O_RETURN_IF_ERROR(Known("score_rule", s.score_rule, ScoreRule::kSum));
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const SequenceSpec& spec, const ModelConfig& config) {
  H2O_RETURN_IF_ERROR(CheckTokens(spec.stop_tokens, config));
  const size_t stops = spec.stop_tokens.size() +
                       (spec.ignore_eos ? 0 : config.stop_tokens.size());
  if (stops > kMaxStopTokens) {
    return Bad("there are ", stops, " stop tokens; there may be up to ",
               kMaxStopTokens);
  }
  for (const LogitBias& bias : spec.logit_bias) {
    H2O_RETURN_IF_ERROR(CheckTokens({bias.token}, config));
    if (!std::isfinite(bias.bias)) {
      return Bad("the bias of token ", bias.token, " is ", bias.bias,
                 "; it must be finite");
    }
  }
  const SamplingParams& s = spec.sampling;
  if (!(s.min_p >= 0 && s.min_p <= 1) || !std::isfinite(s.repetition_penalty) ||
      s.repetition_penalty < 0 || !std::isfinite(s.frequency_penalty) ||
      !std::isfinite(s.presence_penalty)) {
    return Bad("min_p ", s.min_p, ", repetition_penalty ", s.repetition_penalty,
               ", frequency_penalty ", s.frequency_penalty,
               ", presence_penalty ", s.presence_penalty,
               "; they must be 0 to 1, >= 0, finite and finite");
  }
  H2O_RETURN_IF_ERROR(
      InRange("min_tokens", spec.min_tokens, 0, spec.max_tokens));
  return InRange("top_logprobs", spec.top_logprobs, -1, kMostTopLogprobs);
}

absl::Status CheckSequence(const SequenceSpec& spec,
                           const ModelConfig& config) {
  if (spec.prompt.empty()) {
    return Bad("prompt is empty; it must have at least one token");
  }
  H2O_RETURN_IF_ERROR(CheckTokens(spec.prompt, config));
  H2O_RETURN_IF_ERROR(CheckTokens(spec.forced, config));
  H2O_RETURN_IF_ERROR(AtLeast("max_tokens", spec.max_tokens, 1));
  const int64_t prompt = static_cast<int64_t>(spec.prompt.size());
  H2O_RETURN_IF_ERROR(InRange("generated", spec.generated, 0, prompt - 1));
  if (spec.num_positions() > config.max_positions) {
    return Bad("a prompt of ", prompt, " and max_tokens ", spec.max_tokens,
               " need ", spec.num_positions(), " positions; the model has ",
               config.max_positions);
  }
  const int64_t given =
      spec.generated + static_cast<int64_t>(spec.forced.size());
  if (given >= spec.max_tokens) {
    return Bad("forced and generated have ", given,
               " tokens; they must have fewer than max_tokens, ",
               spec.max_tokens);
  }
  const SamplingParams& s = spec.sampling;
  if (!std::isfinite(s.temperature) || s.temperature < 0 || s.top_k < 0 ||
      !(s.top_p >= 0 && s.top_p <= 1)) {
    return Bad("temperature ", s.temperature, ", top_k ", s.top_k, ", top_p ",
               s.top_p, "; they must be >= 0, >= 0 and 0 to 1");
  }
  H2O_RETURN_IF_ERROR(CheckOptions(spec, config));
  return CheckPolicy(spec.policy, config);
}

// A fork may go on from a sequence that is admitted before it.
absl::Status CheckFork(const SequenceSpec& spec, const SequenceSpec* source) {
  if (source != nullptr && IsForkOf(spec, *source)) return absl::OkStatus();
  return Bad("fork_of is ", spec.fork_of,
             "; it must be admitted before, be no fork itself, and have the "
             "same prompt, policy and max_tokens");
}

absl::Status CheckAdmit(const std::vector<SequenceSpec>& admit,
                        const ModelConfig& config) {
  absl::flat_hash_map<uint64_t, const SequenceSpec*> admitted;
  for (const SequenceSpec& spec : admit) {
    absl::Status status = CheckSequence(spec, config);
    if (status.ok() && spec.fork_of != 0) {
      const auto source = admitted.find(spec.fork_of);
      status =
          CheckFork(spec, source == admitted.end() ? nullptr : source->second);
    }
    if (!status.ok()) {
      return Bad("sequence ", spec.id, ": ", status.message());
    }
    if (!admitted.emplace(spec.id, &spec).second) {
      return Bad("admit names sequence ", spec.id, " twice");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSlice(const PrefillSlice& slice, const ModelConfig& config) {
  if (slice.layer_begin < 0 || slice.layer_begin >= slice.layer_end ||
      slice.layer_end > config.num_layers) {
    return Bad("prefill has layers [", slice.layer_begin, ", ", slice.layer_end,
               "); they must be a part of [0, ", config.num_layers, ")");
  }
  if (slice.sequence_ids.empty()) return Bad("prefill of no sequence");
  return Distinct("prefill", slice.sequence_ids);
}

absl::Status CheckTrace(const HeadTrace& trace, const ModelConfig& config) {
  const int64_t last = config.max_positions - 1;
  H2O_RETURN_IF_ERROR(InRange("layer", trace.layer, 0, config.num_layers - 1));
  H2O_RETURN_IF_ERROR(InRange("head", trace.head, 0, config.qkv.kv_heads - 1));
  H2O_RETURN_IF_ERROR(InRange("pos", trace.pos, -1, last));
  H2O_RETURN_IF_ERROR(InRange("evicted", trace.evicted, -1, last));
  for (int32_t position : trace.kept) {
    H2O_RETURN_IF_ERROR(InRange("kept", position, 0, last));
  }
  return absl::OkStatus();
}

absl::Status CheckLogits(const LogitRows& logits, const ModelConfig& config) {
  if (logits.rows.size() % config.vocab_size != 0) {
    return Bad("rows has ", logits.rows.size(),
               " logits; it must be a multiple of the vocabulary's ",
               config.vocab_size);
  }
  return InRange("first_position", logits.first_position, 0,
                 config.max_positions - 1);
}

absl::Status CheckLogprobs(const LogprobRows& logprobs,
                           const ModelConfig& config) {
  // The last token has no position, but logprobs.
  H2O_RETURN_IF_ERROR(InRange("first_position of logprobs",
                              logprobs.first_position, 1,
                              config.max_positions));
  const auto check = [&](const TokenLogprob& logprob) {
    return InRange("token of logprobs", logprob.token, 0,
                   config.vocab_size - 1);
  };
  for (const Logprobs& row : logprobs.rows) {
    H2O_RETURN_IF_ERROR(check(row.chosen));
    H2O_RETURN_IF_ERROR(InRange("likeliest tokens",
                                static_cast<int64_t>(row.top.size()), 0,
                                kMostTopLogprobs));
    for (const TokenLogprob& likely : row.top) {
      H2O_RETURN_IF_ERROR(check(likely));
    }
  }
  return absl::OkStatus();
}

// ---- CheckSameModel

// In the order of Fields.
constexpr const char* kConfigFields[] = {
    "name",          "family",          "num_layers",  "qkv",
    "head_padding",  "hidden_size",     "ffn_dim",     "vocab_size",
    "max_positions", "position_offset", "embed_dim",   "activation",
    "block",         "norm_epsilon",    "norm_affine", "final_norm",
    "bias",          "tied_head",       "stop_tokens", "checkpoint_dtype",
    "quantization"};
static_assert(
    std::size(kConfigFields) ==
    std::tuple_size_v<decltype(Fields(std::declval<ModelConfig&>()))>);

std::string TextOf(const std::string& text) { return text; }
std::string TextOf(const QkvLayout& qkv) {
  return absl::StrCat(qkv.heads, " heads, ", qkv.kv_heads,
                      " KV heads of head_dim ", qkv.head_dim);
}
std::string TextOf(const std::vector<int32_t>& ids) {
  return absl::StrCat("[", absl::StrJoin(ids, ", "), "]");
}
std::string TextOf(const QuantizationConfig& quantization) {
  if (quantization.layout == CodeLayout::kNone) return "none";
  return absl::StrCat(Describe(quantization.coding), " in layout ",
                      static_cast<int>(quantization.layout),
                      quantization.symmetric ? "" : " with zero points",
                      quantization.zeros_less_one ? " less 1" : "");
}
template <Number T>
std::string TextOf(const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_enum_v<T>) {
    return absl::StrCat(static_cast<int>(value));
  } else {
    return absl::StrCat(value);
  }
}

std::vector<std::string> TextsOf(const ModelConfig& config) {
  std::vector<std::string> texts;
  ForEachField(config,
               [&](const auto& field) { texts.push_back(TextOf(field)); });
  return texts;
}

absl::Status CheckQuantization(const QuantizationConfig& quantization) {
  const WeightCoding& coding = quantization.coding;
  H2O_RETURN_IF_ERROR(
      Known("layout of codes", quantization.layout, CodeLayout::kGptq));
  H2O_RETURN_IF_ERROR(
      Known("format of codes", coding.format, WeightFormat::kInt4));
  if (IsPlain(coding.format) != (quantization.layout == CodeLayout::kNone)) {
    return Bad("weights are ", std::string(Name(coding.format)), " in layout ",
               static_cast<int>(quantization.layout));
  }
  if (coding.group == 64 || coding.group == 128) return absl::OkStatus();
  return Bad("groups are of ", coding.group, "; it must be 64 or 128");
}

}  // namespace

absl::Status Check(const ModelSpec& spec) {
  for (const std::string& dtype : {spec.dtype, spec.kv_dtype}) {
    if (!dtype.empty() && !ParseDType(dtype)) {
      return Bad("dtype is '", dtype, "'; it must be float32, bf16 or fp16");
    }
  }
  return CodingOf(spec).status();
}

absl::Status Check(const ModelConfig& config) {
  // Far beyond any model, and products of two still fit 64 bits.
  constexpr int64_t kMost = 1 << 30;
  H2O_RETURN_IF_ERROR(FindFamily(config.family).status());
  H2O_RETURN_IF_ERROR(InRange("num_layers", config.num_layers, 1, kMost));
  H2O_RETURN_IF_ERROR(CheckQkv(config.qkv, kMost));
  H2O_RETURN_IF_ERROR(
      InRange("head_padding", config.head_padding, 0, config.qkv.head_dim - 1));
  H2O_RETURN_IF_ERROR(InRange("hidden_size", config.hidden_size, 1, kMost));
  H2O_RETURN_IF_ERROR(InRange("ffn_dim", config.ffn_dim, 1, kMost));
  H2O_RETURN_IF_ERROR(InRange("vocab_size", config.vocab_size, 1, kMost));
  H2O_RETURN_IF_ERROR(
      InRange("max_positions", config.max_positions, 1, kMaxPositions));
  H2O_RETURN_IF_ERROR(
      InRange("position_offset", config.position_offset, 0, kMaxPositions));
  H2O_RETURN_IF_ERROR(InRange("embed_dim", config.embed_dim, 1, kMost));
  H2O_RETURN_IF_ERROR(
      Known("activation", config.activation, Activation::kGelu));
  H2O_RETURN_IF_ERROR(Known("block", config.block, Block::kPostNorm));
  if (!(std::isfinite(config.norm_epsilon) && config.norm_epsilon > 0)) {
    return Bad("norm_epsilon is ", config.norm_epsilon,
               "; it must be finite and above 0");
  }
  if (config.stop_tokens.empty()) return Bad("stop_tokens is empty");
  for (int32_t token : config.stop_tokens) {
    H2O_RETURN_IF_ERROR(InRange("stop token", token, 0, config.vocab_size - 1));
  }
  H2O_RETURN_IF_ERROR(
      Known("checkpoint_dtype", config.checkpoint_dtype, DType::kFloat16));
  return CheckQuantization(config.quantization);
}

absl::Status Check(const RankInfo& info, const ModelConfig& config) {
  H2O_RETURN_IF_ERROR(Check(info.config));
  H2O_RETURN_IF_ERROR(CheckSameModel(config, info.config));
  const std::vector<KvFormat>& formats = info.geometry.formats;
  for (const KvFormat& format : formats) {
    H2O_RETURN_IF_ERROR(Known("kv_dtype", format.dtype, DType::kFloat16));
  }
  const KvGeometry right = {.num_layers = config.num_layers,
                            .num_heads = config.qkv.kv_heads,
                            .head_dim = config.qkv.head_dim,
                            .formats = formats};
  if (info.geometry != right) {
    return Bad("KV pages are of ", info.geometry.num_layers, " layers, ",
               info.geometry.num_heads, " heads and head_dim ",
               info.geometry.head_dim, "; the model has ", right.num_layers,
               ", ", right.num_heads, " and ", right.head_dim);
  }
  const size_t all = static_cast<size_t>(right.num_layers) * right.num_heads;
  if (formats.size() != 1 && formats.size() != all) {
    return Bad("KV formats of ", formats.size(),
               " heads; it must be 1, for all, or ", all);
  }
  H2O_RETURN_IF_ERROR(AtLeast("num_slabs", info.num_slabs, 1));
  H2O_RETURN_IF_ERROR(AtLeast("packed_tokens", info.packed_tokens, 0));
  H2O_RETURN_IF_ERROR(AtLeast("weights", info.memory.weights, 0));
  H2O_RETURN_IF_ERROR(AtLeast("looked_up", info.memory.looked_up, 0));
  H2O_RETURN_IF_ERROR(AtLeast("workspace", info.memory.workspace, 0));
  H2O_RETURN_IF_ERROR(AtLeast("kv_pool", info.memory.kv_pool, 0));
  return CheckSums(info.sums);
}

absl::Status Check(const StepPlan& plan, const ModelConfig& config) {
  if (plan.step == 0) return Bad("step is 0; the first is 1");
  H2O_RETURN_IF_ERROR(Distinct("retire", plan.retire));
  H2O_RETURN_IF_ERROR(CheckAdmit(plan.admit, config));
  for (const PrefillSlice& slice : plan.prefill) {
    H2O_RETURN_IF_ERROR(CheckSlice(slice, config));
  }
  return Distinct("decode", plan.decode);
}

absl::Status Check(const StepResult& result, const ModelConfig& config) {
  if (result.step == 0) return Bad("step is 0; the first is 1");
  for (const TokenResult& token : result.tokens) {
    H2O_RETURN_IF_ERROR(
        InRange("token", token.token, 0, config.vocab_size - 1));
    H2O_RETURN_IF_ERROR(Known("finish", token.finish, kLastFinishReason));
  }
  for (const HeadTrace& trace : result.trace) {
    H2O_RETURN_IF_ERROR(CheckTrace(trace, config));
  }
  for (const LogitRows& logits : result.logits) {
    H2O_RETURN_IF_ERROR(CheckLogits(logits, config));
  }
  for (const LogprobRows& logprobs : result.logprobs) {
    H2O_RETURN_IF_ERROR(CheckLogprobs(logprobs, config));
  }
  for (const KeptScores& scores : result.scores) {
    H2O_RETURN_IF_ERROR(
        InRange("queries", scores.queries, 1, config.max_positions));
    H2O_RETURN_IF_ERROR(FiniteSeconds("scores", scores.sum));
  }
  H2O_RETURN_IF_ERROR(FiniteSeconds("prefill_seconds", result.prefill_seconds));
  H2O_RETURN_IF_ERROR(FiniteSeconds("decode_seconds", result.decode_seconds));
  H2O_RETURN_IF_ERROR(
      FiniteSeconds("slowest_layer_seconds", result.slowest_layer_seconds));
  H2O_RETURN_IF_ERROR(FiniteSeconds("idle_seconds", result.idle_seconds));
  return FiniteSeconds("sum_wait_seconds", result.sum_wait_seconds);
}

absl::Status CheckSameModel(const ModelConfig& ours,
                            const ModelConfig& theirs) {
  const std::vector<std::string> a = TextsOf(ours), b = TextsOf(theirs);
  // A directory may have another name on another host.
  for (size_t i = 1; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "another model: ", kConfigFields[i], " is ", b[i], " in the worker's ",
        theirs.name, " and ", a[i], " in the coordinator's ", ours.name));
  }
  return absl::OkStatus();
}

}  // namespace h2o
