// From what an operator says to a device that is there.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/device.h"

namespace h2o {

// Errors: those of ParseDeviceName; FAILED_PRECONDITION if this build or this
// machine has no such device.
absl::StatusOr<DeviceName> FindDevice(const std::string& text);

// A device for who computes nothing on it: with little memory of its own.
// Errors: likewise.
absl::StatusOr<std::unique_ptr<Device>> OpenDevice(const DeviceName& name);

}  // namespace h2o
