// Gathers the events of a request and writes them as JSON.
#include "api/result.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

namespace h2o {
namespace {

using nlohmann::ordered_json;

template <class T>
void Append(const std::vector<T>& from, std::vector<T>* to) {
  to->insert(to->end(), from.begin(), from.end());
}

ordered_json ToJson(const TokenLogprob& logprob) {
  return {{"token", logprob.token}, {"logprob", logprob.logprob}};
}

ordered_json ToJson(const std::vector<Logprobs>& positions) {
  ordered_json list = ordered_json::array();
  for (const Logprobs& position : positions) {
    if (position == Logprobs()) {  // the prompt's first token has none
      list.push_back(nullptr);
      continue;
    }
    ordered_json object = ToJson(position.chosen);
    ordered_json& top = object["top"] = ordered_json::array();
    for (const TokenLogprob& likely : position.top) {
      top.push_back(ToJson(likely));
    }
    list.push_back(std::move(object));
  }
  return list;
}

// What only some results have.
void AddRest(const Result& result, ordered_json* object) {
  if (!result.stop_string.empty()) {
    (*object)["stop_reason"] = result.stop_string;
  } else if (result.stop_token) {
    (*object)["stop_reason"] = *result.stop_token;
  }
  if (result.seed) (*object)["seed"] = *result.seed;
  if (!result.logprobs.empty()) {
    (*object)["logprobs"] = ToJson(result.logprobs);
  }
  if (!result.prompt_logprobs.empty()) {
    (*object)["prompt_logprobs"] = ToJson(result.prompt_logprobs);
  }
}

}  // namespace

void Result::Add(const StreamEvent& event) {
  Append(event.tokens, &tokens);
  Append(event.logprobs, &logprobs);
  Append(event.prompt_logprobs, &prompt_logprobs);
  text += event.text;
  if (event.seed) seed = event.seed;
  if (!event.done) return;
  finish = event.finish;
  stop_string = event.stop_string;
  stop_token = event.stop_token;
  usage = event.usage;
  status = event.status;
}

std::string_view FinishName(const Result& result) {
  if (absl::IsCancelled(result.status)) return "cancelled";
  if (absl::IsDeadlineExceeded(result.status)) return "deadline";
  if (!result.status.ok()) return "error";
  switch (result.finish) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kNone:
    case FinishReason::kNonFinite:
      break;
  }
  return "error";
}

std::string ResultJson(const Result& result) {
  const Usage& usage = result.usage;
  ordered_json object = {{"index", result.index},
                         {"tokens", result.tokens},
                         {"text", result.text},
                         {"finish_reason", FinishName(result)},
                         {"usage",
                          {{"prompt_tokens", usage.prompt_tokens},
                           {"completion_tokens", usage.completion_tokens},
                           {"kv_slots_held", usage.kv_slots_held},
                           {"tokens_evicted", usage.tokens_evicted},
                           {"kv_bytes", usage.kv_bytes},
                           {"kv_bytes_full", usage.kv_bytes_full},
                           {"attention_mass_kept", nullptr},
                           {"replays", usage.replays}}}};
  if (usage.attention_mass_kept) {
    object["usage"]["attention_mass_kept"] = *usage.attention_mass_kept;
  }
  AddRest(result, &object);
  if (!result.status.ok()) {
    object["error"] = {{"code", absl::StatusCodeToString(result.status.code())},
                       {"message", std::string(result.status.message())}};
  }
  return WithOthers(
      object.dump(-1, ' ', false, ordered_json::error_handler_t::replace),
      result.others);
}

std::string WithOthers(std::string line, const std::string& others) {
  if (others.empty()) return line;
  line.back() = ',';
  return line.append(others, 1);
}

bool IsResultKey(std::string_view key) {
  constexpr std::string_view kKeys[] = {
      "index",          "tokens", "text",        "finish_reason", "usage",
      "error",          "nll",    "stop_reason", "seed",          "logprobs",
      "prompt_logprobs"};
  return std::find(std::begin(kKeys), std::end(kKeys), key) != std::end(kKeys);
}

}  // namespace h2o
