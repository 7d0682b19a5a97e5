// Counts tokens of streams, and says what errors of servers mean.
#include "loadtest/completion_stream.h"

#include <algorithm>

#include "openai/api_error.h"

namespace h2o {
namespace {

using Json = ChunkStream::Json;

// More are of no model; an `int` holds all counts that are told.
constexpr int64_t kMostTokens = 1'000'000'000;

bool HasText(const Json& chunk) {
  const Json::json_pointer place("/choices/0/text");
  if (!chunk.contains(place)) return false;
  const Json& text = chunk[place];
  return text.is_string() && !text.get_ref<const std::string&>().empty();
}

}  // namespace

LoadOutcome OutcomeOf(int http_status, const std::string& body) {
  const bool full =
      http_status == 429 ||
      (http_status == 503 && ErrorCodeOf(body) != "server_is_unavailable");
  return full ? LoadOutcome::kRefused : LoadOutcome::kFailed;
}

int CompletionStream::Take(std::string_view bytes) {
  const int before = tokens_;
  if (status_.ok()) status_ = chunks_.Add(bytes);
  return tokens_ - before;
}

absl::Status CompletionStream::TakeChunk(const Json& chunk) {
  const Json::json_pointer counted("/usage/completion_tokens");
  if (chunk.contains(counted) && chunk[counted].is_number_integer()) {
    const auto told =
        std::clamp(chunk[counted].get<int64_t>(), int64_t{0}, kMostTokens);
    tokens_ = std::max(tokens_, static_cast<int>(told));
  } else if (HasText(chunk)) {
    ++tokens_;
  }
  return absl::OkStatus();
}

}  // namespace h2o
