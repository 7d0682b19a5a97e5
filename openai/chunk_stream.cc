// Splits a stream into lines, lines into data, and reads the data as chunks.
#include "openai/chunk_stream.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "base/cut_text.h"
#include "openai/api_error.h"

namespace h2o {
namespace {

constexpr std::string_view kData = "data";

// Of server-sent events; only `data` has a meaning here.
bool IsField(std::string_view name) {
  constexpr std::array<std::string_view, 4> kFields = {kData, "event", "id",
                                                       "retry"};
  return std::find(kFields.begin(), kFields.end(), name) != kFields.end();
}

}  // namespace

absl::Status NotOpenAi(std::string_view said) {
  return absl::DataLossError(
      absl::StrCat("the server does not speak OpenAI's API: ", CutText(said)));
}

absl::Status ChunkStream::Add(std::string_view piece) {
  for (size_t end; (end = piece.find('\n')) != std::string_view::npos;
       piece.remove_prefix(end + 1)) {
    rest_ += piece.substr(0, end);
    const absl::Status status = TakeLine(rest_);
    rest_.clear();
    if (!status.ok()) return status;
  }
  rest_ += piece;
  return rest_.size() > kMaxLineBytes ? NotOpenAi(rest_) : absl::OkStatus();
}

absl::Status ChunkStream::TakeLine(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  // The end of an event, or a comment.
  if (line.empty() || line.starts_with(':')) return absl::OkStatus();
  const size_t colon = std::min(line.find(':'), line.size());
  const std::string_view field = line.substr(0, colon);
  if (!IsField(field)) return NotOpenAi(line);
  if (field != kData) return absl::OkStatus();
  line.remove_prefix(std::min(colon + 1, line.size()));
  if (line.starts_with(' ')) line.remove_prefix(1);
  if (line != "[DONE]") return TakeChunk(line);
  ended_ = true;
  return absl::OkStatus();
}

absl::Status ChunkStream::TakeChunk(std::string_view text) {
  const Json chunk = Json::parse(text, nullptr, false);
  if (!chunk.is_object()) return NotOpenAi(text);
  if (chunk.contains("error")) return StatusOfError(200, std::string(text));
  return on_chunk_(chunk);
}

}  // namespace h2o
