// How `generate` and `call` print an answer: as text, or with --json as one
// object.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "api/request.h"

namespace h2o {

// The answer to one prompt.
struct Result {
  int index = 0;  // of the prompt in the input
  std::vector<int32_t> tokens;
  std::string text;
  FinishReason finish = FinishReason::kNone;
  Usage usage;
  absl::Status status;

  void Add(const StreamEvent& event);
};

// "stop" or "length"; of a failed request "cancelled", "deadline" or "error".
std::string_view FinishName(const Result& result);

// One line, without its end: index, tokens, text, finish_reason, usage.
std::string ResultJson(const Result& result);

// For people: tokens, and the KV memory held compared with the full cache.
std::string UsageLine(const Result& result);

}  // namespace h2o
