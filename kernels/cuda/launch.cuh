// Launches of kernels.
#pragma once

#include <cuda_runtime.h>

namespace h2o::cuda {

// Hopper and later can start a kernel while the one before still runs.
inline bool LaunchesOverlap() {
  static const bool overlap = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                  device) == cudaSuccess &&
           major >= 9;
  }();
  return overlap;
}

struct LaunchShape {
  dim3 grid;
  int threads = 0;       // of a block
  int shared_bytes = 0;  // of a block, asked for at the launch
  int cluster = 1;       // blocks along x that make one; more are sm_90's
  // Whether blocks may start while the kernel before still runs.  Then all
  // threads must call WaitForPrevious before they touch what others write.
  bool overlaps = true;
};

template <class... Parameters, class... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                   cudaStream_t stream, const Arguments&... arguments) {
  if (shape.shared_bytes > 0) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
        shape.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (shape.overlaps && LaunchesOverlap()) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = shape.cluster;
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
  }
  cudaLaunchKernelEx(&config, kernel, arguments...);
  return cudaGetLastError();
}

}  // namespace h2o::cuda
