// Sockets that listen for clients and workers.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "base/host_port.h"
#include "parallel/unique_fd.h"

namespace h2o {

// Binds all addresses of `where`; port 0 becomes the port that was bound.  A
// wildcard host takes both families.  The sockets do not block.
// Errors: UNAVAILABLE naming the address and what is wrong with it;
// INVALID_ARGUMENT for a name of something else than TCP (unix:1).
absl::StatusOr<std::vector<UniqueFd>> ListenAtAll(HostPort* where);

}  // namespace h2o
