// Exit codes of all programs (docs/operations.md has the table).
#pragma once

#include "absl/status/status.h"

namespace h2o {

enum ExitCode : int {
  kDone = 0,      // or drained
  kFault = 1,     // with one line that says what was wrong
  kBadInput = 2,  // bad flags or input
  // Of a worker:
  kLetGo = 3,            // its coordinator stopped in order
  kCoordinatorLost = 4,  // or never answered
  kRefused = 5,          // as a stranger: another version, build or model
};

inline ExitCode ExitCodeFor(const absl::Status& status) {
  if (status.ok()) return kDone;
  const bool input =
      absl::IsInvalidArgument(status) || absl::IsNotFound(status);
  return input ? kBadInput : kFault;
}

}  // namespace h2o
