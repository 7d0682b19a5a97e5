// Writes bodies for OpenAI's API and reads its chunks.
#include "clients/openai_stream.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/request_spec.h"

namespace h2o {
namespace {

using Json = ChunkStream::Json;

constexpr std::string_view kTokenName = "token_id:";

void AddPolicy(const KvPolicyRequest& policy, Json* body) {
  (*body)["kv_policy"] = std::string(Name(policy.name));
  if (policy.budget_tokens) (*body)["kv_budget"] = *policy.budget_tokens;
  if (policy.budget_percent) {
    (*body)["kv_budget"] = Json(*policy.budget_percent).dump() + "%";
  }
  if (policy.heavy) (*body)["kv_heavy"] = *policy.heavy;
  if (policy.recent) (*body)["kv_recent"] = *policy.recent;
}

void AddSampling(const Request& request, Json* body) {
  const SamplingParams& sampling = request.sampling;
  (*body)["temperature"] = sampling.temperature;
  (*body)["top_k"] = sampling.top_k;
  (*body)["top_p"] = sampling.top_p;
  (*body)["min_p"] = sampling.min_p;
  (*body)["repetition_penalty"] = sampling.repetition_penalty;
  (*body)["frequency_penalty"] = sampling.frequency_penalty;
  (*body)["presence_penalty"] = sampling.presence_penalty;
  if (request.has_seed) {
    (*body)["seed"] = static_cast<int64_t>(sampling.seed);
  }
  for (const LogitBias& bias : request.logit_bias) {
    (*body)["logit_bias"][absl::StrCat(bias.token)] = bias.bias;
  }
}

void AddEnds(const Request& request, Json* body) {
  (*body)["max_tokens"] = request.max_tokens.value_or(kDefaultMaxTokens);
  (*body)["min_tokens"] = request.min_tokens;
  (*body)["ignore_eos"] = request.ignore_eos;
  if (!request.stop.empty()) (*body)["stop"] = request.stop;
  (*body)["include_stop_str_in_output"] = request.include_stop;
  if (!request.stop_token_ids.empty()) {
    (*body)["stop_token_ids"] = request.stop_token_ids;
  }
}

// ---- Chunks

std::optional<int32_t> TokenOf(std::string_view name) {
  int32_t token = 0;
  if (!name.starts_with(kTokenName)) return std::nullopt;
  name.remove_prefix(kTokenName.size());
  const bool good = absl::SimpleAtoi({name.data(), name.size()}, &token);
  return good ? std::optional(token) : std::nullopt;
}

// Of generated tokens: lists by position, and of the likeliest a map, which
// holds the chosen one behind them if it is not of them.
std::vector<Logprobs> LogprobsOf(const Json& lists, size_t most_top) {
  std::vector<Logprobs> rows;
  for (size_t i = 0; i < lists.at("tokens").size(); ++i) {
    Logprobs& row = rows.emplace_back();
    row.chosen = {
        .token = TokenOf(lists["tokens"][i].get<std::string>()).value_or(0),
        .logprob = lists.at("token_logprobs").at(i).get<float>()};
    for (const auto& [name, logprob] : lists.at("top_logprobs").at(i).items()) {
      if (row.top.size() == most_top) break;
      row.top.push_back({TokenOf(name).value_or(0), logprob.get<float>()});
    }
  }
  return rows;
}

// Of the prompt: a map by token, null for the first; the chosen one is in
// front, and the likeliest have ranks.
std::vector<Logprobs> PromptLogprobsOf(const Json& positions) {
  std::vector<Logprobs> rows;
  for (const Json& position : positions) {
    Logprobs& row = rows.emplace_back();
    if (position.is_null()) continue;
    bool first = true;
    std::vector<std::pair<int, TokenLogprob>> ranked;
    for (const auto& [key, said] : position.items()) {
      TokenLogprob one = {.logprob = said.at("logprob").get<float>()};
      if (!absl::SimpleAtoi(key, &one.token)) continue;
      if (std::exchange(first, false)) row.chosen = one;
      if (said.at("rank").is_number()) ranked.emplace_back(said["rank"], one);
    }
    std::sort(ranked.begin(), ranked.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [rank, one] : ranked) row.top.push_back(one);
  }
  return rows;
}

Usage UsageOf(const Json& chunk) {
  const Json& said = chunk.at("usage");
  Usage usage = {.prompt_tokens = said.at("prompt_tokens"),
                 .completion_tokens = said.at("completion_tokens")};
  if (const auto kv = said.find("kv"); kv != said.end()) {
    usage.kv_slots_held = kv->at("slots_held");
    usage.tokens_evicted = kv->at("tokens_evicted");
    usage.kv_bytes = kv->at("bytes");
    usage.kv_bytes_full = kv->at("bytes_full");
    usage.replays = kv->at("replays");
    const Json& kept = kv->at("attention_mass_kept");
    if (kept.is_number()) usage.attention_mass_kept = kept.get<double>();
  }
  if (const auto times = chunk.find("metrics"); times != chunk.end()) {
    const auto seconds = [&](const char* name) {
      return times->at(name).get<double>() / 1e3;
    };
    usage.queue_seconds = seconds("queue_time_ms");
    usage.prefill_seconds =
        seconds("time_to_first_token_ms") - usage.queue_seconds;
    usage.decode_seconds =
        seconds("generation_time_ms") - usage.prefill_seconds;
  }
  return usage;
}

// What a choice says of the end: to `last`, which comes behind all choices.
void TakeFinish(const Json& choice, StreamEvent* last) {
  const auto reason = choice.find("finish_reason");
  if (reason == choice.end() || !reason->is_string()) return;
  last->finish =
      *reason == "length" ? FinishReason::kLength : FinishReason::kStop;
  if (*reason == "abort") {
    last->status = absl::CancelledError("the server has ended the request");
  }
  const auto stop = choice.find("stop_reason");
  if (stop == choice.end()) return;
  if (stop->is_string()) last->stop_string = *stop;
  if (stop->is_number_integer()) last->stop_token = stop->get<int32_t>();
}

StreamEvent EventOf(const Json& choice, size_t top_logprobs) {
  StreamEvent event;
  event.text = choice.at("text").get<std::string>();
  event.tokens = choice.at("token_ids").get<std::vector<int32_t>>();
  event.seed = static_cast<uint64_t>(choice.at("seed").get<int64_t>());
  if (const auto rows = choice.find("logprobs");
      rows != choice.end() && rows->is_object()) {
    event.logprobs = LogprobsOf(*rows, top_logprobs);
  }
  if (const auto rows = choice.find("prompt_logprobs");
      rows != choice.end() && rows->is_array()) {
    event.prompt_logprobs = PromptLogprobsOf(*rows);
  }
  return event;
}

}  // namespace

absl::StatusOr<std::string> OpenAiBody(const Request& request) {
  if (request.kv_policy && request.kv_policy->flexgen_prefill) {
    return absl::InvalidArgumentError(
        "--kv-prefill flexgen cannot be asked of a server; use generate");
  }
  Json body = {{"stream", true},
               {"stream_options", {{"include_usage", true}}},
               {"return_token_ids", true},
               {"return_tokens_as_token_ids", true}};
  body["prompt"] = request.has_text ? Json(request.text) : Json(request.tokens);
  body["add_special_tokens"] = request.add_special_tokens;
  if (!request.generated.empty()) body["generated"] = request.generated;
  // Over HTTP lower numbers go first.
  body["priority"] =
      -std::max(request.priority, -std::numeric_limits<int32_t>::max());
  if (request.kv_policy) AddPolicy(*request.kv_policy, &body);
  AddSampling(request, &body);
  AddEnds(request, &body);
  if (request.logprobs) body["logprobs"] = request.top_logprobs;
  if (request.prompt_logprobs) body["prompt_logprobs"] = request.top_logprobs;
  return body.dump();
}

OpenAiStream::OpenAiStream(int32_t top_logprobs, OnEvent on_event)
    : top_logprobs_(top_logprobs), on_event_(std::move(on_event)) {}

absl::Status OpenAiStream::TakeChunk(const Json& chunk) {
  try {  // what a chunk lacks, or has of another type
    if (const Json& choices = chunk.at("choices"); !choices.empty()) {
      TakeFinish(choices.front(), &last_);
      on_event_(EventOf(choices.front(), top_logprobs_));
      return absl::OkStatus();
    }
    last_.usage = UsageOf(chunk);
  } catch (const Json::exception&) {
    return NotOpenAi(
        chunk.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  last_.done = true;
  on_event_(last_);
  return last_.status;
}

}  // namespace h2o
