// What must be equal at both ends of worker.proto.
#pragma once

#include <string>

namespace h2o {

// Which wire this program speaks: a hash of worker.proto as it was compiled and
// of the fields of the structs that travel in it.
std::string WireId();

}  // namespace h2o
