// Identifies this program, for --version, ModelInfo and the handshake of
// workers.
#pragma once

#include <string>

namespace h2o {

std::string Version();  // "0.1.0"

// Of the sources that it was built from, as Git names it; "unknown" without.
std::string Commit();

// A hash of the running executable.  The ranks of one group must be of one
// build: they run in lockstep and compare their state bit for bit.
std::string BuildId();

}  // namespace h2o
