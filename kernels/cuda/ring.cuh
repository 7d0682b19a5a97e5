// A position in a ring of stages in shared memory.  The barriers of a stage
// complete one phase in each round (ptx.cuh).
#pragma once

#include <cstdint>

namespace h2o::cuda {

struct RingCursor {
  int stage = 0;
  uint32_t parity = 0;  // of the round

  __device__ void Next(int stages) { Skip(1, stages); }
  // REQUIRES: n <= stages.
  __device__ void Skip(int n, int stages) {
    stage += n;
    if (stage >= stages) {
      stage -= stages;
      parity ^= 1;
    }
  }
};

}  // namespace h2o::cuda
