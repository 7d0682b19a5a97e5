// Turns the outcome of a command into its message and exit status.
#include "clients/commands.h"

#include <cstdio>
#include <iostream>

namespace h2o {

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) {
    // With a full disk printf itself reports no error.
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
    std::cerr << "h2oserve: the results could not all be written to standard "
                 "output\n";
    return 1;
  }
  std::cerr << "h2oserve: " << status.message() << '\n';
  return 1;
}

}  // namespace h2o
