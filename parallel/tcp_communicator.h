// The Communicator over a Mesh of TCP connections, driven by the caller's
// thread alone.
//
// Small sums: everyone sends everything to everyone and sums it all (one
// step).  Large ones: rank r receives everyone's r-th chunk, sums it, and
// sends the sum to everyone (two steps, 2 * (size - 1) / size of the data out
// of every rank).
//
// On the wire every message is a header, then the bytes.  The header names the
// operation and counts messages, so that ranks out of step are noticed before
// their numbers are mixed.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace h2o {

// REQUIRES: `mesh` was formed with `options`.
std::unique_ptr<Communicator> MakeTcpCommunicator(Mesh mesh,
                                                  const MeshOptions& options);

}  // namespace h2o
