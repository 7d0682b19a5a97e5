#include "proto/convert.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/kv_page.h"
#include "base/status_macros.h"
#include "kv/kv_geometry.h"
#include "model/family.h"

namespace h2o {
namespace {

namespace wire = h2oserve::worker;

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// Passes `value` on if it lies in [low, high].
absl::Status InRange(absl::string_view field, int64_t value, int64_t low,
                     int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Bad(field, " is ", value, "; it must be ", low, " to ", high);
}

absl::Status FiniteSeconds(absl::string_view field, double value) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return Bad(field, " is ", value, "; it must be a time of 0 s or more");
}

std::string ActivationName(Activation activation) {
  return activation == Activation::kGelu ? "gelu" : "relu";
}

template <typename Field>
std::vector<typename Field::value_type> ToVector(const Field& field) {
  return {field.begin(), field.end()};
}

absl::StatusOr<KvPolicy> PolicyFromProto(const wire::Sequence& message,
                                         const ModelConfig& config) {
  KvPolicy policy;
  const std::optional<KvPolicyName> name = ParseKvPolicyName(message.policy());
  if (!name) {
    return Bad("policy is '", message.policy(),
               "'; it must be full, h2o, recent or sink");
  }
  policy.name = *name;
  const int64_t all_heads =
      static_cast<int64_t>(config.num_layers) * config.qkv.kv_heads;
  if (message.slots_size() != 1 && message.slots_size() != all_heads) {
    return Bad("slots has ", message.slots_size(),
               " entries; it must have 1, or one for each of the ", all_heads,
               " heads of all layers");
  }
  for (const wire::KvSlots& slots : message.slots()) {
    H2O_RETURN_IF_ERROR(InRange("sinks", slots.sinks(), 0, kMaxPositions));
    H2O_RETURN_IF_ERROR(InRange("heavy", slots.heavy(), 0, kMaxPositions));
    H2O_RETURN_IF_ERROR(InRange("recent", slots.recent(), 1, kMaxPositions));
    H2O_RETURN_IF_ERROR(
        InRange("prefill_recent", slots.prefill_recent(), 0, kMaxPositions));
    H2O_RETURN_IF_ERROR(InRange("score_rule", slots.score_rule(), 0, 1));
    policy.slots.push_back(
        {.sinks = slots.sinks(),
         .heavy = slots.heavy(),
         .recent = slots.recent(),
         .prefill_recent = slots.prefill_recent(),
         .score_rule = static_cast<ScoreRule>(slots.score_rule())});
  }
  return policy;
}

absl::StatusOr<SequenceSpec> SequenceFromProto(const wire::Sequence& message,
                                               const ModelConfig& config) {
  SequenceSpec sequence;
  sequence.id = message.id();
  if (message.prompt().empty()) {
    return Bad("prompt is empty; it must have at least one token");
  }
  for (const auto& ids : {message.prompt(), message.forced()}) {
    for (int32_t id : ids) {
      H2O_RETURN_IF_ERROR(InRange("token id", id, 0, config.vocab_size - 1));
    }
  }
  H2O_RETURN_IF_ERROR(InRange("max_tokens", message.max_tokens(), 1,
                              std::numeric_limits<int32_t>::max()));
  const int64_t stored =
      MaxStoredTokens(message.prompt_size(), message.max_tokens());
  if (stored > config.max_positions) {
    return Bad("a prompt of ", message.prompt_size(), " and max_tokens ",
               message.max_tokens(), " need ", stored,
               " positions; the model has ", config.max_positions);
  }
  if (!message.forced().empty() &&
      message.forced_size() != message.max_tokens() - 1) {
    return Bad(
        "forced has ", message.forced_size(),
        " tokens; it must have max_tokens - 1 = ", message.max_tokens() - 1);
  }
  if (!std::isfinite(message.temperature()) || message.temperature() < 0 ||
      message.top_k() < 0 || !(message.top_p() >= 0 && message.top_p() <= 1)) {
    return Bad("temperature ", message.temperature(), ", top_k ",
               message.top_k(), ", top_p ", message.top_p(),
               "; they must be >= 0, >= 0 and 0 to 1");
  }
  sequence.prompt = ToVector(message.prompt());
  sequence.max_tokens = message.max_tokens();
  sequence.ignore_eos = message.ignore_eos();
  sequence.sampling = {.temperature = message.temperature(),
                       .top_k = message.top_k(),
                       .top_p = message.top_p(),
                       .seed = message.seed()};
  H2O_ASSIGN_OR_RETURN(sequence.policy, PolicyFromProto(message, config));
  sequence.trace = message.trace();
  sequence.forced = ToVector(message.forced());
  sequence.logits = message.logits();
  return sequence;
}

void SequenceToProto(const SequenceSpec& sequence, wire::Sequence* message) {
  message->set_id(sequence.id);
  message->mutable_prompt()->Add(sequence.prompt.begin(),
                                 sequence.prompt.end());
  message->set_max_tokens(sequence.max_tokens);
  message->set_ignore_eos(sequence.ignore_eos);
  message->set_temperature(sequence.sampling.temperature);
  message->set_top_k(sequence.sampling.top_k);
  message->set_top_p(sequence.sampling.top_p);
  message->set_seed(sequence.sampling.seed);
  message->set_policy(std::string(Name(sequence.policy.name)));
  for (const KvSlots& slots : sequence.policy.slots) {
    wire::KvSlots* out = message->add_slots();
    out->set_sinks(slots.sinks);
    out->set_heavy(slots.heavy);
    out->set_recent(slots.recent);
    out->set_prefill_recent(slots.prefill_recent);
    out->set_score_rule(static_cast<int>(slots.score_rule));
  }
  message->set_trace(sequence.trace);
  message->mutable_forced()->Add(sequence.forced.begin(),
                                 sequence.forced.end());
  message->set_logits(sequence.logits);
}

// Each id at most once.
absl::Status CheckDistinct(
    absl::string_view field,
    const google::protobuf::RepeatedField<uint64_t>& ids) {
  absl::flat_hash_set<uint64_t> seen;
  for (uint64_t id : ids) {
    if (!seen.insert(id).second) {
      return Bad(field, " names sequence ", id, " twice");
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string WireId() {
  google::protobuf::FileDescriptorProto proto;
  wire::WorkerMessage::descriptor()->file()->CopyTo(&proto);
  const std::string bytes = proto.SerializeAsString();
  return Fnv1a().AddBytes(bytes.data(), bytes.size()).Hex();
}

void ToProto(const ModelSpec& spec, wire::ModelSpec* message) {
  message->set_model(spec.model);
  message->set_dummy(spec.dummy);
  message->set_dummy_seed(spec.dummy_seed);
  message->set_dtype(spec.dtype);
  message->set_kv_dtype(spec.kv_dtype);
}

absl::StatusOr<ModelSpec> FromProto(const wire::ModelSpec& message) {
  for (const std::string& dtype : {message.dtype(), message.kv_dtype()}) {
    if (!dtype.empty() && !ParseDType(dtype)) {
      return Bad("dtype is '", dtype, "'; it must be float32, bf16 or fp16");
    }
  }
  return ModelSpec{.model = message.model(),
                   .dummy = message.dummy(),
                   .dummy_seed = message.dummy_seed(),
                   .dtype = message.dtype(),
                   .kv_dtype = message.kv_dtype()};
}

void ToProto(const ModelConfig& config, wire::ModelConfig* message) {
  message->set_name(config.name);
  message->set_family(config.family);
  message->set_num_layers(config.num_layers);
  message->set_num_heads(config.qkv.heads);
  message->set_num_kv_heads(config.qkv.kv_heads);
  message->set_head_dim(config.qkv.head_dim);
  message->set_hidden_size(config.hidden_size);
  message->set_ffn_dim(config.ffn_dim);
  message->set_vocab_size(config.vocab_size);
  message->set_max_positions(config.max_positions);
  message->set_position_offset(config.position_offset);
  message->set_embed_dim(config.embed_dim);
  message->set_activation(ActivationName(config.activation));
  message->set_pre_norm(config.block == Block::kPreNorm);
  message->set_norm_epsilon(config.norm_epsilon);
  message->set_final_norm(config.final_norm);
  message->set_norm_affine(config.norm_affine);
  message->set_bias(config.bias);
  message->set_tied_head(config.tied_head);
  message->mutable_stop_tokens()->Add(config.stop_tokens.begin(),
                                      config.stop_tokens.end());
  message->set_checkpoint_dtype(std::string(Name(config.checkpoint_dtype)));
}

absl::StatusOr<ModelConfig> FromProto(const wire::ModelConfig& message) {
  H2O_RETURN_IF_ERROR(FindFamily(message.family()).status());
  // Far beyond any model, and products of two still fit 64 bits.
  constexpr int64_t kMost = 1 << 30;
  H2O_RETURN_IF_ERROR(InRange("num_layers", message.num_layers(), 1, kMost));
  H2O_RETURN_IF_ERROR(InRange("num_heads", message.num_heads(), 1, kMost));
  H2O_RETURN_IF_ERROR(
      InRange("num_kv_heads", message.num_kv_heads(), 1, message.num_heads()));
  if (message.num_heads() % message.num_kv_heads() != 0) {
    return Bad("num_kv_heads is ", message.num_kv_heads(),
               "; it must divide num_heads, ", message.num_heads());
  }
  H2O_RETURN_IF_ERROR(InRange("head_dim", message.head_dim(), 1, kMost));
  H2O_RETURN_IF_ERROR(InRange("hidden_size", message.hidden_size(), 1, kMost));
  H2O_RETURN_IF_ERROR(InRange("ffn_dim", message.ffn_dim(), 1, kMost));
  H2O_RETURN_IF_ERROR(InRange("vocab_size", message.vocab_size(), 1, kMost));
  H2O_RETURN_IF_ERROR(
      InRange("max_positions", message.max_positions(), 1, kMaxPositions));
  H2O_RETURN_IF_ERROR(
      InRange("position_offset", message.position_offset(), 0, kMaxPositions));
  H2O_RETURN_IF_ERROR(InRange("embed_dim", message.embed_dim(), 1, kMost));
  if (message.stop_tokens().empty()) return Bad("stop_tokens is empty");
  for (int32_t token : message.stop_tokens()) {
    H2O_RETURN_IF_ERROR(
        InRange("stop token", token, 0, message.vocab_size() - 1));
  }
  const std::optional<DType> dtype = ParseDType(message.checkpoint_dtype());
  if (!dtype) {
    return Bad("checkpoint_dtype is '", message.checkpoint_dtype(),
               "'; it must be float32, bf16 or fp16");
  }
  if (message.activation() != "relu" && message.activation() != "gelu") {
    return Bad("activation is '", message.activation(),
               "'; it must be relu or gelu");
  }
  ModelConfig config;
  config.name = message.name();
  config.family = message.family();
  config.num_layers = message.num_layers();
  config.qkv = {message.num_heads(), message.num_kv_heads(),
                message.head_dim()};
  config.hidden_size = message.hidden_size();
  config.ffn_dim = message.ffn_dim();
  config.vocab_size = message.vocab_size();
  config.max_positions = message.max_positions();
  config.position_offset = message.position_offset();
  config.embed_dim = message.embed_dim();
  config.activation =
      message.activation() == "gelu" ? Activation::kGelu : Activation::kRelu;
  config.block = message.pre_norm() ? Block::kPreNorm : Block::kPostNorm;
  config.norm_epsilon = message.norm_epsilon();
  config.final_norm = message.final_norm();
  config.norm_affine = message.norm_affine();
  config.bias = message.bias();
  config.tied_head = message.tied_head();
  config.stop_tokens.assign(message.stop_tokens().begin(),
                            message.stop_tokens().end());
  config.checkpoint_dtype = *dtype;
  return config;
}

absl::Status CheckSameModel(const ModelConfig& ours,
                            const ModelConfig& theirs) {
  wire::ModelConfig a, b;
  ToProto(ours, &a);
  ToProto(theirs, &b);
  // Directories may be called differently on different hosts.
  a.clear_name();
  b.clear_name();
  const google::protobuf::Reflection& reflection = *a.GetReflection();
  for (int i = 0; i < a.GetDescriptor()->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field =
        a.GetDescriptor()->field(i);
    const auto text = [&](const wire::ModelConfig& config) -> std::string {
      if (field->is_repeated()) {
        return absl::StrCat("[", absl::StrJoin(config.stop_tokens(), ", "),
                            "]");
      }
      switch (field->cpp_type()) {
        case google::protobuf::FieldDescriptor::CPPTYPE_INT32:
          return absl::StrCat(reflection.GetInt32(config, field));
        case google::protobuf::FieldDescriptor::CPPTYPE_FLOAT:
          return absl::StrCat(reflection.GetFloat(config, field));
        case google::protobuf::FieldDescriptor::CPPTYPE_BOOL:
          return reflection.GetBool(config, field) ? "true" : "false";
        default:
          return reflection.GetString(config, field);
      }
    };
    if (text(a) != text(b)) {
      return absl::FailedPreconditionError(
          absl::StrCat("another model: ", field->name(), " is ", text(b),
                       " in the worker's ", theirs.name, " and ", text(a),
                       " in the coordinator's ", ours.name));
    }
  }
  return absl::OkStatus();
}

void ToProto(const StepPlan& plan, wire::StepPlan* message) {
  message->set_step(plan.step);
  message->mutable_retire()->Add(plan.retire.begin(), plan.retire.end());
  for (const SequenceSpec& sequence : plan.admit) {
    SequenceToProto(sequence, message->add_admit());
  }
  for (const PrefillSlice& slice : plan.prefill) {
    wire::PrefillSlice* out = message->add_prefill();
    out->mutable_sequence_ids()->Add(slice.sequence_ids.begin(),
                                     slice.sequence_ids.end());
    out->set_layer_begin(slice.layer_begin);
    out->set_layer_end(slice.layer_end);
  }
  message->mutable_decode()->Add(plan.decode.begin(), plan.decode.end());
}

absl::StatusOr<StepPlan> FromProto(const wire::StepPlan& message,
                                   const ModelConfig& config) {
  StepPlan plan;
  if (message.step() == 0) return Bad("step is 0; the first is 1");
  plan.step = message.step();
  H2O_RETURN_IF_ERROR(CheckDistinct("retire", message.retire()));
  H2O_RETURN_IF_ERROR(CheckDistinct("decode", message.decode()));
  absl::flat_hash_set<uint64_t> admitted;
  for (const wire::Sequence& sequence : message.admit()) {
    absl::StatusOr<SequenceSpec> spec = SequenceFromProto(sequence, config);
    if (!spec.ok()) {
      return Bad("sequence ", sequence.id(), ": ", spec.status().message());
    }
    if (!admitted.insert(sequence.id()).second) {
      return Bad("admit names sequence ", sequence.id(), " twice");
    }
    plan.admit.push_back(*std::move(spec));
  }
  for (const wire::PrefillSlice& slice : message.prefill()) {
    if (slice.layer_begin() < 0 || slice.layer_begin() >= slice.layer_end() ||
        slice.layer_end() > config.num_layers) {
      return Bad("prefill has layers [", slice.layer_begin(), ", ",
                 slice.layer_end(), "); they must be a part of [0, ",
                 config.num_layers, ")");
    }
    if (slice.sequence_ids().empty()) return Bad("prefill of no sequence");
    H2O_RETURN_IF_ERROR(CheckDistinct("prefill", slice.sequence_ids()));
    plan.prefill.push_back({.sequence_ids = ToVector(slice.sequence_ids()),
                            .layer_begin = slice.layer_begin(),
                            .layer_end = slice.layer_end()});
  }
  plan.retire = ToVector(message.retire());
  plan.decode = ToVector(message.decode());
  return plan;
}

void ToProto(const StepResult& result, wire::StepResult* message) {
  message->set_step(result.step);
  message->set_checksum(result.checksum);
  for (const TokenResult& token : result.tokens) {
    wire::TokenResult* out = message->add_tokens();
    out->set_sequence_id(token.sequence_id);
    out->set_token(token.token);
    out->set_finish(static_cast<int>(token.finish));
  }
  for (const HeadTrace& trace : result.trace) {
    wire::HeadTrace* out = message->add_trace();
    out->set_sequence_id(trace.sequence_id);
    out->set_layer(trace.layer);
    out->set_head(trace.head);
    out->set_pos(trace.pos);
    out->set_evicted(trace.evicted);
    out->mutable_kept()->Add(trace.kept.begin(), trace.kept.end());
  }
  for (const LogitRows& rows : result.logits) {
    wire::LogitRows* out = message->add_logits();
    out->set_sequence_id(rows.sequence_id);
    out->set_first_position(rows.first_position);
    out->mutable_rows()->Add(rows.rows.begin(), rows.rows.end());
  }
  message->set_prefill_seconds(result.prefill_seconds);
  message->set_decode_seconds(result.decode_seconds);
  message->set_slowest_layer_seconds(result.slowest_layer_seconds);
  message->set_idle_seconds(result.idle_seconds);
}

absl::StatusOr<StepResult> FromProto(const wire::StepResult& message,
                                     const ModelConfig& config) {
  StepResult result;
  if (message.step() == 0) return Bad("step is 0; the first is 1");
  result.step = message.step();
  result.checksum = message.checksum();
  for (const wire::TokenResult& token : message.tokens()) {
    H2O_RETURN_IF_ERROR(
        InRange("token", token.token(), 0, config.vocab_size - 1));
    H2O_RETURN_IF_ERROR(InRange("finish", token.finish(), 0,
                                static_cast<int>(kLastFinishReason)));
    result.tokens.push_back(
        {.sequence_id = token.sequence_id(),
         .token = token.token(),
         .finish = static_cast<FinishReason>(token.finish())});
  }
  for (const wire::HeadTrace& trace : message.trace()) {
    H2O_RETURN_IF_ERROR(
        InRange("layer", trace.layer(), 0, config.num_layers - 1));
    H2O_RETURN_IF_ERROR(
        InRange("head", trace.head(), 0, config.qkv.kv_heads - 1));
    H2O_RETURN_IF_ERROR(
        InRange("pos", trace.pos(), -1, config.max_positions - 1));
    H2O_RETURN_IF_ERROR(
        InRange("evicted", trace.evicted(), -1, config.max_positions - 1));
    for (int32_t position : trace.kept()) {
      H2O_RETURN_IF_ERROR(
          InRange("kept", position, 0, config.max_positions - 1));
    }
    result.trace.push_back({.sequence_id = trace.sequence_id(),
                            .layer = trace.layer(),
                            .head = trace.head(),
                            .pos = trace.pos(),
                            .evicted = trace.evicted(),
                            .kept = ToVector(trace.kept())});
  }
  for (const wire::LogitRows& rows : message.logits()) {
    H2O_RETURN_IF_ERROR(InRange("first_position", rows.first_position(), 0,
                                config.max_positions - 1));
    if (rows.rows_size() % config.vocab_size != 0) {
      return Bad("rows has ", rows.rows_size(),
                 " logits; it must be a multiple of the vocabulary's ",
                 config.vocab_size);
    }
    result.logits.push_back({.sequence_id = rows.sequence_id(),
                             .first_position = rows.first_position(),
                             .rows = ToVector(rows.rows())});
  }
  H2O_RETURN_IF_ERROR(
      FiniteSeconds("prefill_seconds", message.prefill_seconds()));
  H2O_RETURN_IF_ERROR(
      FiniteSeconds("decode_seconds", message.decode_seconds()));
  H2O_RETURN_IF_ERROR(
      FiniteSeconds("slowest_layer_seconds", message.slowest_layer_seconds()));
  H2O_RETURN_IF_ERROR(FiniteSeconds("idle_seconds", message.idle_seconds()));
  result.prefill_seconds = message.prefill_seconds();
  result.decode_seconds = message.decode_seconds();
  result.slowest_layer_seconds = message.slowest_layer_seconds();
  result.idle_seconds = message.idle_seconds();
  return result;
}

}  // namespace h2o
