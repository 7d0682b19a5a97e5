// Copies fields between the public types and the messages.
#include "clients/cpp/translate.h"

#include <iterator>
#include <string>
#include <utility>
#include <vector>

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

void SetPrompt(const GenerateRequest& request, v1::GenerateRequest* message) {
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    message->set_text(*text);
    return;
  }
  const auto& tokens = *std::get_if<std::vector<int32_t>>(&request.prompt);
  message->mutable_tokens()->mutable_ids()->Add(tokens.begin(), tokens.end());
}

void SetSampling(const GenerateRequest& request, v1::Sampling* sampling) {
  sampling->set_temperature(request.temperature);
  sampling->set_top_k(request.top_k);
  sampling->set_top_p(request.top_p);
  if (request.seed) sampling->set_seed(*request.seed);
  sampling->set_min_p(request.min_p);
  sampling->set_repetition_penalty(request.repetition_penalty);
  sampling->set_frequency_penalty(request.frequency_penalty);
  sampling->set_presence_penalty(request.presence_penalty);
  for (const auto& [token, bias] : request.logit_bias) {
    (*sampling->mutable_logit_bias())[token] = bias;
  }
  sampling->set_logprobs(request.logprobs);
  sampling->set_top_logprobs(request.top_logprobs);
  sampling->set_prompt_logprobs(request.prompt_logprobs);
}

void SetKvPolicy(const KvRequest& kv, v1::KvPolicy* message) {
  message->set_name(kv.policy);
  if (kv.budget_tokens) message->set_tokens(*kv.budget_tokens);
  if (kv.budget_percent) message->set_percent_of_prompt(*kv.budget_percent);
  if (kv.heavy) message->set_heavy(*kv.heavy);
  if (kv.recent) message->set_recent(*kv.recent);
}

FinishedBy FinishOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return FinishedBy::kStop;
    case v1::FINISH_REASON_LENGTH:
      return FinishedBy::kLength;
    default:
      return FinishedBy::kNothing;
  }
}

GenerateUsage UsageOf(const v1::Usage& message) {
  GenerateUsage usage;
  usage.prompt_tokens = message.prompt_tokens();
  usage.completion_tokens = message.completion_tokens();
  usage.kv_slots_held = message.kv_slots_held();
  usage.tokens_evicted = message.tokens_evicted();
  usage.kv_bytes = message.kv_bytes();
  usage.kv_bytes_full = message.kv_bytes_full();
  if (message.has_attention_mass_kept()) {
    usage.attention_mass_kept = message.attention_mass_kept();
  }
  usage.queue_seconds = message.queue_seconds();
  usage.prefill_seconds = message.prefill_seconds();
  usage.decode_seconds = message.decode_seconds();
  usage.replays = message.replays();
  return usage;
}

LikelyToken LogprobOf(const v1::TokenLogprob& message) {
  LikelyToken logprob;
  logprob.token = message.token();
  logprob.logprob = message.logprob();
  return logprob;
}

std::vector<TokenLogprobs> LogprobsOf(
    const google::protobuf::RepeatedPtrField<v1::Logprobs>& messages) {
  std::vector<TokenLogprobs> rows;
  for (const v1::Logprobs& message : messages) {
    TokenLogprobs& row = rows.emplace_back();
    row.chosen = LogprobOf(message.chosen());
    for (const auto& top : message.top()) row.top.push_back(LogprobOf(top));
  }
  return rows;
}

template <typename T>
void MoveTo(std::vector<T> from, std::vector<T>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()),
             std::make_move_iterator(from.end()));
}

}  // namespace

v1::GenerateRequest MessageOf(const GenerateRequest& request) {
  v1::GenerateRequest message;
  message.set_request_id(request.request_id);
  SetPrompt(request, &message);
  if (request.max_tokens) message.set_max_tokens(*request.max_tokens);
  SetSampling(request, message.mutable_sampling());
  SetKvPolicy(request.kv, message.mutable_kv_policy());
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
  return message;
}

Piece PieceOf(const v1::GenerateResponse& message, int resumes) {
  Piece piece;
  piece.resumes = resumes;
  piece.tokens.assign(message.tokens().begin(), message.tokens().end());
  piece.text = message.text();
  piece.logprobs = LogprobsOf(message.logprobs());
  piece.prompt_logprobs = LogprobsOf(message.prompt_logprobs());
  piece.request_id = message.request_id();
  if (message.has_seed()) piece.seed = message.seed();
  piece.finished_by = FinishOf(message.finish_reason());
  piece.stop_reason = message.stop_reason();
  if (message.has_usage()) piece.usage = UsageOf(message.usage());
  return piece;
}

ModelInfo InfoOf(const v1::ModelInfo& message) {
  ModelInfo info;
  info.name = message.name();
  info.version = message.version();
  info.num_layers = message.num_layers();
  info.num_heads = message.num_heads();
  info.num_kv_heads = message.num_kv_heads();
  info.head_dim = message.head_dim();
  info.vocab_size = message.vocab_size();
  info.max_positions = message.max_positions();
  info.tensor_parallel_size = message.tensor_parallel_size();
  info.num_groups = message.num_groups();
  info.kv_pool_bytes = message.kv_pool_bytes();
  info.default_kv_policy = message.default_kv_policy();
  return info;
}

AdmissionForecast ForecastOf(const v1::AdmissionAnswer& message) {
  AdmissionForecast forecast;
  forecast.fits_now = message.fits_now();
  forecast.retry_after_seconds = message.retry_after_seconds();
  forecast.pages = message.pages();
  forecast.kv_bytes = message.kv_bytes();
  forecast.reason = message.reason();
  return forecast;
}

Error ErrorOf(const absl::Status& status,
              std::optional<double> retry_after_seconds) {
  Error error;
  error.code = static_cast<ErrorCode>(status.code());
  error.message = std::string(status.message());
  error.retry_after_seconds = retry_after_seconds;
  return error;
}

void Append(Piece piece, Completion* completion) {
  MoveTo(std::move(piece.tokens), &completion->tokens);
  completion->text += piece.text;
  MoveTo(std::move(piece.logprobs), &completion->logprobs);
  MoveTo(std::move(piece.prompt_logprobs), &completion->prompt_logprobs);
  completion->request_id = std::move(piece.request_id);
  if (piece.seed) completion->seed = *piece.seed;
  completion->finished_by = piece.finished_by;
  completion->stop_reason = std::move(piece.stop_reason);
  if (piece.usage) completion->usage = *piece.usage;
  completion->resumes = piece.resumes;
}

}  // namespace h2o
