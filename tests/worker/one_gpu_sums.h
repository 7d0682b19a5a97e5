// Sums between ranks that share one GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace h2o {

// Where ranks meet, on the device.
struct MeetingPoint {
  uint32_t open = 0;      // not 0: from here on they do
  uint32_t arrivals = 0;  // of all ranks
};

// A kernel of one thread that waits on the device until each of `ranks` ranks
// has launched it as often as this one, which `round` counts, zero at first;
// does nothing before the point is open.  Traps if that takes half a minute.
cudaError_t Meet(MeetingPoint* point, uint32_t* round, int ranks,
                 cudaStream_t stream);

// A copy by a kernel, in line with no other rank's.
cudaError_t Copy(const void* from, int64_t bytes, void* to,
                 cudaStream_t stream);

// out[i] = the sum of number i of `ranks` arrays, which lie `bytes_apart`
// apart, in their order and in float32.
cudaError_t SumRanks(const std::byte* arrays, int64_t bytes_apart, int ranks,
                     int64_t count, DType dtype, void* out,
                     cudaStream_t stream);

}  // namespace h2o
