// Gathers the events of a request and writes them as JSON.
#include "api/result.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

namespace h2o {

void Result::Add(const StreamEvent& event) {
  tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
  text += event.text;
  if (!event.done) return;
  finish = event.finish;
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
  nlohmann::ordered_json object = {
      {"index", result.index},
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
  if (!result.status.ok()) {
    object["error"] = {{"code", absl::StatusCodeToString(result.status.code())},
                       {"message", std::string(result.status.message())}};
  }
  return WithOthers(
      object.dump(-1, ' ', false,
                  nlohmann::ordered_json::error_handler_t::replace),
      result.others);
}

std::string WithOthers(std::string line, const std::string& others) {
  if (others.empty()) return line;
  line.back() = ',';
  return line.append(others, 1);
}

bool IsResultKey(std::string_view key) {
  constexpr std::string_view kKeys[] = {
      "index", "tokens", "text", "finish_reason", "usage", "error", "nll"};
  return std::find(std::begin(kKeys), std::end(kKeys), key) != std::end(kKeys);
}

}  // namespace h2o
