// Turns the outcome of a command into its message and exit status.
#include "clients/commands.h"

#include <cstdio>

#include "base/log.h"
#include "flags/exit_code.h"

namespace h2o {

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) {
    // With a full disk printf itself reports no error.
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return kDone;
    LogWhyItEnds("the results could not all be written to standard output");
    return kFault;
  }
  LogWhyItEnds(std::string(status.message()));
  return ExitCodeFor(status);
}

}  // namespace h2o
