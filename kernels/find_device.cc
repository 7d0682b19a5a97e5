#include "kernels/find_device.h"

#include "base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"

namespace h2o {

absl::StatusOr<DeviceName> FindDevice(const std::string& text) {
  H2O_ASSIGN_OR_RETURN(const DeviceName name, ParseDeviceName(text));
  if (name.cuda) H2O_RETURN_IF_ERROR(CheckGpu(name.ordinal));
  return name;
}

}  // namespace h2o
