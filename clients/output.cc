// Prints the answer to a prompt as text or as one JSON object.
#include "clients/output.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

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
  const nlohmann::ordered_json object = {
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
        {"kv_bytes_full", usage.kv_bytes_full}}}};
  return object.dump(-1, ' ', false,
                     nlohmann::ordered_json::error_handler_t::replace);
}

std::string UsageLine(const Result& result) {
  const Usage& usage = result.usage;
  return absl::StrFormat(
      "%d + %d tokens; KV: %d slots a head held, %d tokens evicted, %.0f KiB "
      "of the full cache's %.0f (%.0f %%)",
      usage.prompt_tokens, usage.completion_tokens, usage.kv_slots_held,
      usage.tokens_evicted, usage.kv_bytes / 1024.0,
      usage.kv_bytes_full / 1024.0,
      100.0 * usage.kv_bytes / std::max<int64_t>(1, usage.kv_bytes_full));
}

}  // namespace h2o
