// A request and its answer as OpenAI's API has them, for a client: the body of
// POST /v1/completions, and the events of its stream.
//
//   Request -> OpenAiBody -> server -> pieces -> OpenAiStream -> StreamEvent
//
// Tokens go and come as ids.  Threads: one.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/request.h"
#include "openai/chunk_stream.h"

namespace h2o {

// Errors: INVALID_ARGUMENT for what is not for clients of a server.
absl::StatusOr<std::string> OpenAiBody(const Request& request);

// Reads the stream of one answer with one choice.
class OpenAiStream {
 public:
  using OnEvent = std::function<void(const StreamEvent&)>;
  // `top_logprobs`: of the request.
  OpenAiStream(int32_t top_logprobs, OnEvent on_event);

  // Errors: the one that the server says; DATA_LOSS if it does not speak
  // OpenAI's API.
  absl::Status Add(std::string_view piece) { return chunks_.Add(piece); }

  // The finish reason has come; what is behind it is usage.
  bool is_finished() const { return last_.finish != FinishReason::kNone; }
  // The last event has come.
  bool is_complete() const { return last_.done; }

 private:
  absl::Status TakeChunk(const ChunkStream::Json& chunk);

  const size_t top_logprobs_;
  const OnEvent on_event_;
  ChunkStream chunks_{
      [this](const ChunkStream::Json& chunk) { return TakeChunk(chunk); }};
  StreamEvent last_;  // gathers what the last event says
};

}  // namespace h2o
