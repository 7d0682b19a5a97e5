// Finds the addresses at which the ranks of a group map each other's memory.
#include <nccl_device.h>

#include "parallel/nccl_peers.h"

namespace h2o {
namespace {

__global__ void PointersKernel(ncclWindow_t window, std::byte** of_rank) {
  const int rank = threadIdx.x;
  of_rank[rank] = static_cast<std::byte*>(ncclGetLsaPointer(window, 0, rank));
}

}  // namespace

bool IsMapped(ncclComm_t comm, ncclWindow_t window, int size) {
  cudaPointerAttributes attributes = {};
  return window != nullptr &&
         cudaPointerGetAttributes(&attributes, window) == cudaSuccess &&
         attributes.type == cudaMemoryTypeDevice &&
         ncclTeamLsa(comm).nRanks >= size;
}

cudaError_t PointersOfPeers(ncclWindow_t window, int size,
                            std::byte** of_rank) {
  std::byte** on_device = nullptr;
  const size_t bytes = size * sizeof(*of_rank);
  const cudaError_t taken = cudaMalloc(&on_device, bytes);
  if (taken != cudaSuccess) return taken;
  PointersKernel<<<1, size>>>(window, on_device);
  cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess) {  // the copy waits for the kernel
    status = cudaMemcpy(of_rank, on_device, bytes, cudaMemcpyDeviceToHost);
  }
  cudaFree(on_device);
  return status;
}

}  // namespace h2o
