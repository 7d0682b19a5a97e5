// Asks NCCL's device API about memory that GPUs map to each other.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>

namespace h2o {

// Whether `size` ranks map each other's memory by `window`, so that kernels may
// read and write it.  Where they cannot, NCCL gives a window of host memory.
bool IsMapped(ncclComm_t comm, ncclWindow_t window, int size);

// of_rank[size] = the address of each rank's `window`, as this device sees it.
// REQUIRES: IsMapped.
cudaError_t PointersOfPeers(ncclWindow_t window, int size, std::byte** of_rank);

}  // namespace h2o
