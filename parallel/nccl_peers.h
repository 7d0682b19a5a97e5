// What NCCL's device API tells.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>

namespace h2o {

// Whether `size` ranks map each other's memory by `window`, so that kernels may
// read and write it.  To ranks that do not, NCCL gives a window of another
// kind, of the host's.
bool IsMapped(ncclComm_t comm, ncclWindow_t window, int size);

// of_rank[size] = where the devices of the ranks have `window`, as this device
// sees it.  REQUIRES: IsMapped.
cudaError_t PointersOfPeers(ncclWindow_t window, int size, std::byte** of_rank);

}  // namespace h2o
