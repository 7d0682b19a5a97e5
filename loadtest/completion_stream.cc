// Reads streams of completions, and the errors of OpenAI's API.
#include "loadtest/completion_stream.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

using Json = nlohmann::json;
using Pointer = Json::json_pointer;

std::string TextAt(const Json& json, const char* place) {
  const Pointer pointer(place);
  if (!json.is_object() || !json.contains(pointer)) return "";
  const Json& value = json[pointer];
  return value.is_string() ? value.get<std::string>() : "";
}

}  // namespace

LoadOutcome OutcomeOf(int http_status, std::string_view code) {
  const bool full = http_status == 429 ||
                    (http_status == 503 && code != "server_is_unavailable");
  return full ? LoadOutcome::kRefused : LoadOutcome::kFailed;
}

ApiErrorText ErrorTextOf(std::string_view body) {
  const Json json = Json::parse(body, nullptr, false);
  ApiErrorText text{TextAt(json, "/error/message"),
                    TextAt(json, "/error/code")};
  if (text.message.empty()) text.message = std::string(body.substr(0, 200));
  return text;
}

int CompletionStream::Take(std::string_view bytes) {
  int tokens = 0;
  for (size_t end; (end = bytes.find('\n')) != std::string_view::npos;
       bytes.remove_prefix(end + 1)) {
    line_ += bytes.substr(0, end);
    if (line_.ends_with('\r')) line_.pop_back();
    tokens += TakeLine(line_);
    line_.clear();
  }
  line_ += bytes;
  return tokens;
}

int CompletionStream::TakeLine(std::string_view line) {
  constexpr std::string_view kData = "data:";
  if (!line.starts_with(kData)) return 0;  // a comment, or between events
  line.remove_prefix(kData.size());
  while (line.starts_with(' ')) line.remove_prefix(1);
  if (line != "[DONE]") return TakeChunk(line);
  ended_ = true;
  return 0;
}

int CompletionStream::TakeChunk(std::string_view chunk) {
  const Json json = Json::parse(chunk, nullptr, false);
  if (json.is_object() && json.contains("error")) {
    const ApiErrorText text = ErrorTextOf(chunk);
    error_ = text.message;
    const bool full =
        text.code == "slow_down" || text.code == "server_is_overloaded";
    error_outcome_ = full ? LoadOutcome::kRefused : LoadOutcome::kFailed;
    return 0;
  }
  const Pointer counted("/usage/completion_tokens");
  int now = tokens_;
  if (json.is_object() && json.contains(counted) &&
      json[counted].is_number_integer()) {
    now = std::max(now, json[counted].get<int>());
  } else if (!TextAt(json, "/choices/0/text").empty()) {
    ++now;
  }
  const int gained = now - tokens_;
  tokens_ = now;
  return gained;
}

}  // namespace h2o
