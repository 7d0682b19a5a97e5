// All that came of one request, gathered from its events, and its JSON form.
#pragma once

#include <cstdint>
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
  Usage usage;
  absl::Status status;

  void Add(const StreamEvent& event);
};

// "stop" or "length"; of a failed request "cancelled", "deadline" or "error".
std::string_view FinishName(const Result& result);

// One line without its end: index, tokens, text, finish_reason, usage.
std::string ResultJson(const Result& result);

}  // namespace h2o
