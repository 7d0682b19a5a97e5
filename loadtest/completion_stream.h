// Reads the stream of POST /v1/completions: server-sent events with chunks of
// OpenAI's API.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "loadtest/request_record.h"

namespace h2o {

// What a server's status and error code mean for a load test.
LoadOutcome OutcomeOf(int http_status, std::string_view code);

// The message of an error's body and its code; the body if it has none.
struct ApiErrorText {
  std::string message, code;
};
ApiErrorText ErrorTextOf(std::string_view body);

class CompletionStream {
 public:
  // Takes bytes as they come.  Returns how many tokens came with them: as the
  // chunks' running `usage` says, or one for each chunk with text where chunks
  // have none.
  int Take(std::string_view bytes);

  bool ended() const { return ended_; }                // [DONE] has come
  const std::string& error() const { return error_; }  // of an error's chunk
  LoadOutcome error_outcome() const { return error_outcome_; }

 private:
  int TakeLine(std::string_view line);
  int TakeChunk(std::string_view chunk);

  std::string line_;  // that has not come whole
  int tokens_ = 0;    // so far
  bool ended_ = false;
  std::string error_;
  LoadOutcome error_outcome_ = LoadOutcome::kFailed;
};

}  // namespace h2o
