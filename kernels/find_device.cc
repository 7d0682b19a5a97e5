// Finds and opens the device that --device names.
#include "kernels/find_device.h"

#include "base/head_dim.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace h2o {
namespace {

// A backend is made for a width of heads, even if it attends nothing.
constexpr int kAnyHeadDim = kCudaHeadDims[0];

}  // namespace

absl::StatusOr<DeviceName> FindDevice(const std::string& text) {
  H2O_ASSIGN_OR_RETURN(const DeviceName name, ParseDeviceName(text));
  if (name.cuda) H2O_RETURN_IF_ERROR(CheckGpu(name.ordinal));
  return name;
}

absl::StatusOr<std::unique_ptr<Device>> OpenDevice(const DeviceName& name) {
  if (name.cuda) {
    CudaBackendOptions options;
    options.ordinal = name.ordinal;
    options.head_dim = kAnyHeadDim;
    return NewCudaBackend(options);
  }
  CpuBackendOptions options;
  options.max_inputs = 1;
  options.head_dim = kAnyHeadDim;
  return NewCpuBackend(options);
}

}  // namespace h2o
