// Translates requests and their answers to and from inference.proto.
#include "proto/request_proto.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cut_text.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::StatusOr<std::optional<KvPolicyRequest>> PolicyOf(
    const v1::KvPolicy& message, const KvPolicyRequest& server_default) {
  const bool has_budget = message.budget_case() != v1::KvPolicy::BUDGET_NOT_SET;
  KvPolicyRequest policy;
  if (!message.name().empty()) {
    const std::optional<KvPolicyName> name = ParseKvPolicyName(message.name());
    if (!name) {
      return Bad("kv_policy.name is '", CutText(message.name()),
                 "'; it must be full, h2o, recent or sink, or empty for the "
                 "server's default");
    }
    policy.name = *name;
  } else if (has_budget || message.has_heavy() || message.has_recent()) {
    policy.name = server_default.name;
  } else {
    return std::nullopt;
  }
  if (message.has_tokens()) policy.budget_tokens = message.tokens();
  if (message.has_percent_of_prompt()) {
    policy.budget_percent = message.percent_of_prompt();
  }
  if (message.has_heavy()) policy.heavy = message.heavy();
  if (message.has_recent()) policy.recent = message.recent();
  return policy;
}

void PolicyToProto(const KvPolicyRequest& policy, v1::KvPolicy* message) {
  message->set_name(std::string(Name(policy.name)));
  if (policy.budget_tokens) message->set_tokens(*policy.budget_tokens);
  if (policy.budget_percent) {
    message->set_percent_of_prompt(*policy.budget_percent);
  }
  if (policy.heavy) message->set_heavy(*policy.heavy);
  if (policy.recent) message->set_recent(*policy.recent);
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
    case FinishReason::kNonFinite:  // its stream ends with an error
      break;
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

FinishReason FromProto(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return FinishReason::kStop;
    case v1::FINISH_REASON_LENGTH:
      return FinishReason::kLength;
    default:
      return FinishReason::kNone;
  }
}

void ToProto(const TokenLogprob& logprob, v1::TokenLogprob* message) {
  message->set_token(logprob.token);
  message->set_logprob(logprob.logprob);
}

TokenLogprob FromProto(const v1::TokenLogprob& message) {
  return {message.token(), message.logprob()};
}

using RepeatedLogprobs = google::protobuf::RepeatedPtrField<v1::Logprobs>;

void ToProto(const std::vector<Logprobs>& rows, RepeatedLogprobs* messages) {
  for (const Logprobs& row : rows) {
    v1::Logprobs* message = messages->Add();
    ToProto(row.chosen, message->mutable_chosen());
    for (const TokenLogprob& top : row.top) ToProto(top, message->add_top());
  }
}

std::vector<Logprobs> FromProto(const RepeatedLogprobs& messages) {
  std::vector<Logprobs> rows;
  for (const v1::Logprobs& message : messages) {
    Logprobs& row = rows.emplace_back();
    row.chosen = FromProto(message.chosen());
    for (const auto& top : message.top()) row.top.push_back(FromProto(top));
  }
  return rows;
}

void SamplingToProto(const Request& request, v1::Sampling* message) {
  const SamplingParams& sampling = request.sampling;
  message->set_temperature(sampling.temperature);
  message->set_top_k(sampling.top_k);
  message->set_top_p(sampling.top_p);
  if (request.has_seed) message->set_seed(sampling.seed);
  message->set_min_p(sampling.min_p);
  message->set_repetition_penalty(sampling.repetition_penalty);
  message->set_frequency_penalty(sampling.frequency_penalty);
  message->set_presence_penalty(sampling.presence_penalty);
  for (const LogitBias& bias : request.logit_bias) {
    (*message->mutable_logit_bias())[bias.token] = bias.bias;
  }
  message->set_logprobs(request.logprobs);
  message->set_top_logprobs(request.top_logprobs);
  message->set_prompt_logprobs(request.prompt_logprobs);
}

void SamplingFromProto(const v1::Sampling& message, Request* request) {
  request->sampling = {.temperature = message.temperature(),
                       .top_k = message.top_k(),
                       .top_p = message.top_p(),
                       .seed = message.seed(),
                       .min_p = message.min_p(),
                       .repetition_penalty = message.repetition_penalty(),
                       .frequency_penalty = message.frequency_penalty(),
                       .presence_penalty = message.presence_penalty()};
  request->has_seed = message.has_seed();
  for (const auto& [token, bias] : message.logit_bias()) {
    request->logit_bias.push_back({token, bias});
  }
  // A map has no order, and equal requests must have equal bytes.
  std::sort(request->logit_bias.begin(), request->logit_bias.end(),
            [](const auto& a, const auto& b) { return a.token < b.token; });
  request->logprobs = message.logprobs();
  request->top_logprobs = message.top_logprobs();
  request->prompt_logprobs = message.prompt_logprobs();
}

}  // namespace

absl::StatusOr<v1::GenerateRequest> ToProto(const Request& request) {
  if (request.trace || request.logits || !request.forced.empty()) {
    return Bad(
        "servers send neither traces nor logits; use generate or logits");
  }
  if (request.kv_policy && request.kv_policy->flexgen_prefill) {
    return Bad(
        "--kv-prefill flexgen cannot be asked of a server; use generate");
  }
  v1::GenerateRequest message;
  if (request.has_text) {
    message.set_text(request.text);
  } else {
    message.mutable_tokens()->mutable_ids()->Add(request.tokens.begin(),
                                                 request.tokens.end());
  }
  if (request.max_tokens) message.set_max_tokens(*request.max_tokens);
  SamplingToProto(request, message.mutable_sampling());
  message.mutable_stop()->Add(request.stop.begin(), request.stop.end());
  message.set_ignore_eos(request.ignore_eos);
  message.mutable_generated()->Add(request.generated.begin(),
                                   request.generated.end());
  message.mutable_stop_token_ids()->Add(request.stop_token_ids.begin(),
                                        request.stop_token_ids.end());
  message.set_min_tokens(request.min_tokens);
  message.set_priority(request.priority);
  if (!request.add_special_tokens) message.set_add_special_tokens(false);
  message.set_include_stop(request.include_stop);
  if (request.kv_policy) {
    PolicyToProto(*request.kv_policy, message.mutable_kv_policy());
  }
  return message;
}

absl::StatusOr<Request> FromProto(const v1::GenerateRequest& message,
                                  const KvPolicyRequest& server_default) {
  Request request;
  switch (message.prompt_case()) {
    case v1::GenerateRequest::kText:
      request.has_text = true;
      request.text = message.text();
      break;
    case v1::GenerateRequest::kTokens:
      request.tokens.assign(message.tokens().ids().begin(),
                            message.tokens().ids().end());
      break;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return Bad("prompt is not set; give text or tokens");
  }
  if (message.has_max_tokens()) request.max_tokens = message.max_tokens();
  SamplingFromProto(message.sampling(), &request);
  request.stop.assign(message.stop().begin(), message.stop().end());
  request.ignore_eos = message.ignore_eos();
  request.generated.assign(message.generated().begin(),
                           message.generated().end());
  request.stop_token_ids.assign(message.stop_token_ids().begin(),
                                message.stop_token_ids().end());
  request.min_tokens = message.min_tokens();
  request.priority = message.priority();
  request.add_special_tokens =
      !message.has_add_special_tokens() || message.add_special_tokens();
  request.include_stop = message.include_stop();
  H2O_ASSIGN_OR_RETURN(request.kv_policy,
                       PolicyOf(message.kv_policy(), server_default));
  return request;
}

void ToProto(const Usage& usage, v1::Usage* message) {
  message->set_prompt_tokens(usage.prompt_tokens);
  message->set_completion_tokens(usage.completion_tokens);
  message->set_kv_slots_held(usage.kv_slots_held);
  message->set_tokens_evicted(usage.tokens_evicted);
  message->set_kv_bytes(usage.kv_bytes);
  message->set_kv_bytes_full(usage.kv_bytes_full);
  message->set_queue_seconds(usage.queue_seconds);
  message->set_prefill_seconds(usage.prefill_seconds);
  message->set_decode_seconds(usage.decode_seconds);
  message->set_replays(usage.replays);
  if (usage.attention_mass_kept) {
    message->set_attention_mass_kept(*usage.attention_mass_kept);
  }
}

Usage FromProto(const v1::Usage& message) {
  return {
      .prompt_tokens = message.prompt_tokens(),
      .completion_tokens = message.completion_tokens(),
      .kv_slots_held = message.kv_slots_held(),
      .tokens_evicted = message.tokens_evicted(),
      .kv_bytes = message.kv_bytes(),
      .kv_bytes_full = message.kv_bytes_full(),
      .attention_mass_kept = message.has_attention_mass_kept()
                                 ? std::optional(message.attention_mass_kept())
                                 : std::nullopt,
      .replays = message.replays(),
      .queue_seconds = message.queue_seconds(),
      .prefill_seconds = message.prefill_seconds(),
      .decode_seconds = message.decode_seconds()};
}

void ToProto(const AdmissionAnswer& answer, v1::AdmissionAnswer* message) {
  message->set_fits_now(answer.fits_now);
  message->set_retry_after_seconds(answer.retry_after_seconds);
  message->set_pages(answer.pages);
  message->set_kv_bytes(answer.kv_bytes);
  message->set_reason(answer.reason);
}

void ToProto(const StreamEvent& event, v1::GenerateResponse* message) {
  message->mutable_tokens()->Add(event.tokens.begin(), event.tokens.end());
  message->set_text(event.text);
  if (event.seed) message->set_seed(*event.seed);
  ToProto(event.logprobs, message->mutable_logprobs());
  ToProto(event.prompt_logprobs, message->mutable_prompt_logprobs());
  message->set_stop_reason(event.stop_token ? absl::StrCat(*event.stop_token)
                                            : event.stop_string);
  if (!event.done) return;
  message->set_finish_reason(ToProto(event.finish));
  ToProto(event.usage, message->mutable_usage());
}

StreamEvent FromProto(const v1::GenerateResponse& message) {
  StreamEvent event;
  event.tokens.assign(message.tokens().begin(), message.tokens().end());
  event.text = message.text();
  if (message.has_seed()) event.seed = message.seed();
  event.logprobs = FromProto(message.logprobs());
  event.prompt_logprobs = FromProto(message.prompt_logprobs());
  // The wire does not tell a stop token from a text that spells its number.
  event.stop_string = message.stop_reason();
  event.done = message.has_usage();
  event.finish = FromProto(message.finish_reason());
  event.usage = FromProto(message.usage());
  return event;
}

}  // namespace h2o
