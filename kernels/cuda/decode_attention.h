// How a launch of the decode attention kernel is laid out: for its tests, which
// compare layouts.  cuda::DecodeAttention chooses by itself.
#pragma once

#include "kernels/cuda/kernels.h"

namespace h2o::cuda {

struct DecodeAttentionShape {
  int split = 1;   // blocks of an item: 1, or of half the warps 2, 4 or 8
  int stages = 0;  // of the ring; 0: as many as let all blocks of an SM fit
};
DecodeAttentionShape ChooseDecodeAttentionShape(
    const DecodeAttentionArgs& args);
cudaError_t DecodeAttentionAs(const DecodeAttentionArgs& args,
                              const DecodeAttentionShape& shape,
                              cudaStream_t stream);

}  // namespace h2o::cuda
