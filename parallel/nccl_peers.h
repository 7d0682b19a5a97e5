// What NCCL's device API tells.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>

namespace h2o {

// How many ranks, this one too, are within reach of this one's loads and
// stores. Known once a window is registered.
int RanksInReach(ncclComm_t comm);

// of_rank[size] = where the devices of the ranks have `window`, as this device
// sees it.  REQUIRES: all `size` ranks are in reach.
cudaError_t PointersOfPeers(ncclWindow_t window, int size, std::byte** of_rank);

}  // namespace h2o
