// How a process with a broken invariant ends.
#include "base/check.h"

#include <cstdlib>

#include "base/log.h"

namespace h2o::internal {

void AbortWith(const std::string& message) {
  LogWhyItEnds(message);
  std::abort();
}

}  // namespace h2o::internal
