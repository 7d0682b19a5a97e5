// Translates requests and their answers to and from inference.proto.
#include "proto/request_proto.h"

#include <optional>
#include <string>
#include <utility>

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
  v1::Sampling* sampling = message.mutable_sampling();
  sampling->set_temperature(request.sampling.temperature);
  sampling->set_top_k(request.sampling.top_k);
  sampling->set_top_p(request.sampling.top_p);
  if (request.has_seed) sampling->set_seed(request.sampling.seed);
  message.mutable_stop()->Add(request.stop.begin(), request.stop.end());
  message.set_ignore_eos(request.ignore_eos);
  message.mutable_generated()->Add(request.generated.begin(),
                                   request.generated.end());
  message.set_priority(request.priority);
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
  const v1::Sampling& sampling = message.sampling();
  request.sampling = {.temperature = sampling.temperature(),
                      .top_k = sampling.top_k(),
                      .top_p = sampling.top_p(),
                      .seed = sampling.seed()};
  request.has_seed = sampling.has_seed();
  request.stop.assign(message.stop().begin(), message.stop().end());
  request.ignore_eos = message.ignore_eos();
  request.generated.assign(message.generated().begin(),
                           message.generated().end());
  request.priority = message.priority();
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
  if (!event.done) return;
  message->set_finish_reason(ToProto(event.finish));
  ToProto(event.usage, message->mutable_usage());
}

StreamEvent FromProto(const v1::GenerateResponse& message) {
  StreamEvent event;
  event.tokens.assign(message.tokens().begin(), message.tokens().end());
  event.text = message.text();
  if (message.has_seed()) event.seed = message.seed();
  event.done = message.has_usage();
  event.finish = FromProto(message.finish_reason());
  event.usage = FromProto(message.usage());
  return event;
}

}  // namespace h2o
