// Counts the tokens of a stream of POST /v1/completions, of any server of
// OpenAI's API.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "loadtest/request_record.h"
#include "openai/chunk_stream.h"

namespace h2o {

// What an error that a server answered means for a load test.  A server that is
// full says 429 or 503; h2oserve's 503 may also say that nobody can serve.
LoadOutcome OutcomeOf(int http_status, const std::string& body);

class CompletionStream {
 public:
  // Takes bytes as they come.  Returns how many tokens came with them: as the
  // chunks' running `usage` says, or one for each chunk with text where chunks
  // have none.  Behind an error it takes no more.
  int Take(std::string_view bytes);

  bool ended() const { return chunks_.ended(); }  // [DONE] has come
  // That the server said in a chunk, or DATA_LOSS for what is no such stream.
  const absl::Status& status() const { return status_; }

 private:
  absl::Status TakeChunk(const ChunkStream::Json& chunk);

  ChunkStream chunks_{
      [this](const ChunkStream::Json& chunk) { return TakeChunk(chunk); }};
  absl::Status status_;
  int tokens_ = 0;  // so far
};

}  // namespace h2o
