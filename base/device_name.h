// Names of a machine's devices, as --device takes them.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"

namespace h2o {

// "cpu", "cuda" (the first GPU) or "cuda:N".
struct DeviceName {
  bool cuda = false;
  int ordinal = 0;
};

// Errors: INVALID_ARGUMENT naming `text` and the names there are.
absl::StatusOr<DeviceName> ParseDeviceName(std::string_view text);

}  // namespace h2o
