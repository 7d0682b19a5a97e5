// Whether a server can listen somewhere, in words for people.
#pragma once

#include "absl/status/status.h"
#include "base/host_port.h"

namespace h2o {

// gRPC says why it cannot listen in a log of its own.  This tries the same and
// says it in one line.
// Errors: UNAVAILABLE "cannot listen on HOST:PORT: Address already in use";
// INVALID_ARGUMENT for a name by which gRPC means something else (unix:1).
absl::Status CheckCanListen(const HostPort& where);

}  // namespace h2o
