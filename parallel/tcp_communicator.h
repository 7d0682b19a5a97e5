// The Communicator over a Mesh of TCP connections, driven by the caller's
// thread alone.
//
// Small sums take one step: every rank sends its data to every other rank and
// sums all of it.  Large sums take two: rank r receives chunk r of every rank,
// sums it and sends the sum to all.  Each rank then sends 2 * (size - 1) / size
// of the data.
//
// On the wire a message is a header, then the bytes.  The header has the
// operation and a count of messages, so that ranks out of step are noticed
// before their numbers are mixed.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace h2o {

// REQUIRES: `mesh` was formed with `options`.
std::unique_ptr<Communicator> MakeTcpCommunicator(Mesh mesh,
                                                  const MeshOptions& options);

}  // namespace h2o
