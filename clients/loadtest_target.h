// A server of gRPC under load.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/server_flags.h"
#include "loadtest/pace.h"
#include "loadtest/target.h"

namespace h2o {

// `keys` by tenant; empty: that of `server`.  `timeout_seconds` of each
// request; 0: none.  `pace` must outlive it.
// Errors: INVALID_ARGUMENT for an option that cannot be.
absl::StatusOr<std::unique_ptr<Target>> NewGrpcTarget(
    const ServerFlags& server, const std::vector<std::string>& keys,
    double timeout_seconds, const Pace* pace);

}  // namespace h2o
