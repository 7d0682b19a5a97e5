// Writes what came of a body of OpenAI's API: events of the Engine become the
// chunks of a stream, or one whole answer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "api/request.h"
#include "model/tokenizer.h"
#include "openai/api_error.h"
#include "openai/ask.h"

namespace h2o {

// The "data: ..\n\n" of a server-sent event.
std::string ServerSentEvent(const std::string& json);

// What a stream sends so that nobody takes it for dead, and its last event.
inline constexpr std::string_view kKeepAlive = ": keep-alive\n\n";
inline constexpr std::string_view kStreamEnd = "data: [DONE]\n\n";

// Threads  not thread-safe.
class OpenAiAnswer {
 public:
  struct Names {
    std::string request_id;  // the answer's id is cmpl-ID or chatcmpl-ID
    int64_t created = 0;     // Unix, seconds
    KvPolicyName default_policy = KvPolicyName::kFull;
  };

  // Of a chat, the prompts of `ask` are rendered.  `tokenizer` may be null:
  // then texts are empty.  It must outlive this.
  OpenAiAnswer(const OpenAiAsk* ask, Names names, const Tokenizer* tokenizer);
  ~OpenAiAnswer();

  // The chunks of one event of a candidate, in a stream.  A candidate that was
  // cancelled or whose time is up is finished with "abort"; no other event has
  // an error.  REQUIRES: best_of is n.
  std::string Chunks(int candidate, const StreamEvent& event);
  // Behind the last event of the last candidate: usage, where it is asked for,
  // and the end.
  std::string End();

  // The whole answer.  `events`: one of each candidate, with all that came.
  std::string Whole(absl::Span<const StreamEvent> events);

  // The end of a stream that an error breaks.
  static std::string BrokenEnd(const ApiError& error);

 private:
  class Writer;
  const std::unique_ptr<Writer> writer_;
};

}  // namespace h2o
