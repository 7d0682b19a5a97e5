// Where somebody stands in a ring of stages in shared memory, whose barriers
// have a phase a round (ptx.cuh).
#pragma once

#include <cstdint>

namespace h2o::cuda {

struct RingCursor {
  int stage = 0;
  uint32_t parity = 0;  // of the round

  __device__ void Next(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace h2o::cuda
