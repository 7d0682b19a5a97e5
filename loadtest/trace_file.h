// A recorded load: when requests came and how long they were.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace h2o {

struct TraceRow {
  double at_seconds = 0;  // from the first row
  int prompt_tokens = 1;
  int output_tokens = 1;
  friend bool operator==(const TraceRow&, const TraceRow&) = default;
};

// The columns of Microsoft's Azure LLM inference traces (Patel et al.,
// "Splitwise", ISCA 2024): TIMESTAMP, ContextTokens, GeneratedTokens.  A time
// is "2023-11-16 18:15:46.6805900" or a number of seconds.
// Errors: INVALID_ARGUMENT naming `name`, the line and what would be right;
// times must not go back.
absl::StatusOr<std::vector<TraceRow>> ParseTrace(const std::string& text,
                                                 const std::string& name);

// Errors: NOT_FOUND without the file; the above.
absl::StatusOr<std::vector<TraceRow>> ReadTrace(const std::string& path);

}  // namespace h2o
