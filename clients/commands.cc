#include "clients/commands.h"

#include <iostream>

namespace h2o {

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return 0;
  std::cerr << "h2oserve: " << status.message() << std::endl;
  return 1;
}

}  // namespace h2o
