// gRPC's own messages, as lines of our log: it would write them to stderr
// itself, and wait there.
#pragma once

namespace h2o {

// Called before gRPC is used.  Errors are logged as warnings, at a bounded
// rate; with GRPC_VERBOSITY set, all that it names.
void LogForGrpc();

}  // namespace h2o
