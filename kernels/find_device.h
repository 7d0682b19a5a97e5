// Finds the device that an operator names.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/device.h"

namespace h2o {

// Errors: those of ParseDeviceName; FAILED_PRECONDITION if this build or this
// machine has no such device.
absl::StatusOr<DeviceName> FindDevice(const std::string& text);

// Opens a device for copies only; it takes almost no scratch memory.
// Errors: likewise.
absl::StatusOr<std::unique_ptr<Device>> OpenDevice(const DeviceName& name);

}  // namespace h2o
