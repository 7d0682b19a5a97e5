// All that came of one request, gathered from its events, and its JSON form.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "api/request.h"

namespace h2o {

struct Result {
  int index = 0;  // of the request in its input
  std::vector<int32_t> tokens;
  std::string text;
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;            // StreamEvent's
  std::optional<int32_t> stop_token;  // likewise
  std::optional<uint64_t> seed;       // of the draws
  std::vector<Logprobs> logprobs;     // of the tokens, where asked for
  std::vector<Logprobs> prompt_logprobs;
  Usage usage;
  absl::Status status;
  std::string others;  // what the request's line says beside it; or empty

  void Add(const StreamEvent& event);
};

// "stop" or "length"; of a failed request "cancelled", "deadline" or "error".
std::string_view FinishName(const Result& result);

// One line without its end: index, tokens, text, finish_reason, usage; where
// there are any stop_reason (a string or a token), seed, logprobs and
// prompt_logprobs, a list of {token, logprob, top: [{token, logprob}]}, null
// for the prompt's first token; of a failed request its error {code, message};
// and what `others` holds.
std::string ResultJson(const Result& result);

// The JSON object `line` with the keys of the JSON object `others`, which may
// be empty, behind its own.  REQUIRES: `line` has a key.
std::string WithOthers(std::string line, const std::string& others);

// Whether a command's output has a key of this name, so that `others` must not.
bool IsResultKey(std::string_view key);

}  // namespace h2o
