// gRPC's own messages, as lines of our log: it would write them to stderr
// itself, and wait there.
#pragma once

#include <cstdint>

namespace h2o {

// Called before gRPC is used.  Errors are logged as warnings, at a bounded
// rate; with GRPC_VERBOSITY set, all that it names.
void LogForGrpc();

// TLS handshakes that failed so far, as gRPC logs them.  Any thread.
int64_t FailedHandshakes();

}  // namespace h2o
