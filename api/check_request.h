// The checks of a request that need no model.  Every door's requests pass
// through this one function, so an error reads the same everywhere.
#pragma once

#include "absl/status/status.h"
#include "api/request.h"

namespace h2o {

// Every piece of generated text is searched for stop strings, so their number
// and length are limited.
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMostStopStrings = 256;  // that an operator may allow
inline constexpr int kMaxStopBytes = 256;
inline constexpr int kMostChoices = 128;      // OpenAI's limit of n
inline constexpr float kMostLogitBias = 100;  // up or down
inline constexpr float kMostPenalty = 2;      // of frequency or presence

// Errors: INVALID_ARGUMENT naming the field, its value and what would be right.
absl::Status CheckRequest(const Request& request,
                          int max_stop = kMaxStopStrings);

}  // namespace h2o
