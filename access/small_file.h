// Reads files that a person wrote: keys and certificates.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace h2o {

inline constexpr int64_t kMaxSmallFileBytes = 4 << 20;

// Waits for at most some seconds, and for a pipe alone; one that nobody writes
// to is empty.
// Errors: INVALID_ARGUMENT naming the path and what is wrong with it.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);

}  // namespace h2o
