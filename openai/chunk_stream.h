// Reads a stream of OpenAI's API as a client: server-sent events ("HTML Living
// Standard", section 9.2) whose data are JSON objects, the chunks, and whose
// last data is "[DONE]".
//
// Threads  one owner.
#pragma once

#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace h2o {

// DATA_LOSS: what the server said is not of OpenAI's API.
absl::Status NotOpenAi(std::string_view said);

class ChunkStream {
 public:
  using Json = nlohmann::ordered_json;  // keys in the order of the server
  using OnChunk = std::function<absl::Status(const Json& chunk)>;

  // A line may have so many bytes; a longer one has no place in an answer.
  static constexpr size_t kMaxLineBytes = 64 << 20;

  explicit ChunkStream(OnChunk on_chunk) : on_chunk_(std::move(on_chunk)) {}

  // Takes bytes as they come; pieces may end anywhere.
  // Errors: the one that the server says in a chunk, or that `on_chunk`
  // returns; DATA_LOSS for what is no such stream.  Nothing is to be added
  // behind an error.
  absl::Status Add(std::string_view piece);

  bool ended() const { return ended_; }  // [DONE] has come

 private:
  absl::Status TakeLine(std::string_view line);
  absl::Status TakeChunk(std::string_view text);

  const OnChunk on_chunk_;
  std::string rest_;  // of a line that has not come whole
  bool ended_ = false;
};

}  // namespace h2o
