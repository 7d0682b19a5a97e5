// What can be said of a request without knowing the model's state: the same
// words whether it came through the public service, a flag or a line of a file.
#pragma once

#include "absl/status/status.h"
#include "coordinator/engine.h"

namespace h2o {

// A stop string is searched for in every piece of text, so there are few and
// they are short.
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopBytes = 1024;

// Errors: INVALID_ARGUMENT naming the field, its value and what would be right.
absl::Status CheckRequest(const Request& request);

}  // namespace h2o
