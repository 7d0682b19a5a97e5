// A matrix product of one to four rows: a stream of weights that each SM reads
// once, at the speed of the memory.
//
// One block an SM owns a contiguous part of the outputs.  Its producer warp
// walks over groups of kGroup outputs and, within a group, over chunks of
// kChunk inputs, and fills a ring of stages in shared memory by bulk copies:
// the group's weights and the rows' inputs of one chunk.  Each consumer warp
// sums one output of the group over the chunks.
//
// Weights depend on no kernel, so the ring is filled with them before the
// kernel before this one is complete (programmatic dependent launch); only the
// inputs wait.  So the memory never rests between two products, though a
// LayerNorm lies between them.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {
namespace {

constexpr int kGroup = 8;     // outputs at a time: one a consumer warp
constexpr int kChunk = 1024;  // inputs of a stage
constexpr int kThreads = (kGroup + 1) * kWarp;
constexpr int kMaxStages = 12;
constexpr int kSharedBytes = 220 << 10;
constexpr int kVector = 8;  // numbers a lane reads at once

template <int kRows>
struct Ring {
  static constexpr int kElements = (kGroup + kRows) * kChunk;
  static constexpr int kStageBytes = kElements * 2;
  static constexpr int kStages = kSharedBytes / kStageBytes < kMaxStages
                                     ? kSharedBytes / kStageBytes
                                     : kMaxStages;
  static constexpr int kBytes = kStages * kStageBytes;
};

// The part of the work that one block does, as a sequence of stages.
struct Walk {
  int begin, end;  // outputs
  int chunks;      // of the inputs

  __device__ Walk(const FewRowsArgs& a)
      : begin(Share(a.outputs, blockIdx.x)),
        end(Share(a.outputs, blockIdx.x + 1)),
        chunks((a.inputs + kChunk - 1) / kChunk) {}

  __device__ int Stages() const {
    return (end - begin + kGroup - 1) / kGroup * chunks;
  }
  __device__ int FirstOutput(int stage) const {
    return begin + stage / chunks * kGroup;
  }
  __device__ static int Share(int total, int block) {
    return static_cast<int>(int64_t{total} * block / gridDim.x);
  }
};

__device__ __forceinline__ int ChunkColumns(const FewRowsArgs& a, int chunk) {
  return min(kChunk, a.inputs - chunk * kChunk);
}

template <class T, int kRows>
__device__ void CopyWeights(const FewRowsArgs& a, const Walk& walk, int stage,
                            T* shared, uint64_t* full) {
  const int chunk = stage % walk.chunks;
  const int first = walk.FirstOutput(stage);
  const int outputs = min(kGroup, walk.end - first);
  const uint32_t bytes = ChunkColumns(a, chunk) * sizeof(T);
  if (Lane() == 0) ArriveExpect(full, (outputs + a.rows) * bytes);
  __syncwarp();
  if (Lane() < outputs) {
    BulkCopy(shared + Lane() * kChunk,
             static_cast<const T*>(a.weights) +
                 (first + Lane()) * a.weight_stride + chunk * kChunk,
             bytes, full);
  }
}

template <class T, int kRows>
__device__ void CopyInputs(const FewRowsArgs& a, const Walk& walk, int stage,
                           T* shared, uint64_t* full) {
  const int chunk = stage % walk.chunks;
  if (Lane() < a.rows) {
    BulkCopy(shared + (kGroup + Lane()) * kChunk,
             static_cast<const T*>(a.x) + Lane() * a.x_stride + chunk * kChunk,
             ChunkColumns(a, chunk) * sizeof(T), full);
  }
}

template <class T, int kRows>
__device__ void Produce(const FewRowsArgs& a, const Walk& walk, T* ring,
                        uint64_t* full, uint64_t* empty) {
  using R = Ring<kRows>;
  const int stages = walk.Stages();
  const int ahead = min(stages, R::kStages);
  for (int s = 0; s < ahead; ++s) {
    CopyWeights<T, kRows>(a, walk, s, ring + s * R::kElements, full + s);
  }
  WaitForPrevious();
  AllowNext();
  for (int s = 0; s < ahead; ++s) {
    CopyInputs<T, kRows>(a, walk, s, ring + s * R::kElements, full + s);
  }
  for (int s = ahead; s < stages; ++s) {
    const int slot = s % R::kStages;
    Wait(empty + slot, (s / R::kStages - 1) & 1);
    T* shared = ring + slot * R::kElements;
    CopyWeights<T, kRows>(a, walk, s, shared, full + slot);
    CopyInputs<T, kRows>(a, walk, s, shared, full + slot);
  }
}

template <class T, int kRows>
__device__ __forceinline__ void AddChunk(const T* weights, const T* x,
                                         int columns, float (&sums)[kRows]) {
#pragma unroll
  for (int at = Lane() * kVector; at < kChunk; at += kWarp * kVector) {
    if (at >= columns) break;
    const Vector<T, kVector> w = Load<kVector>(weights + at);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Vector<T, kVector> v = Load<kVector>(x + r * kChunk + at);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        sums[r] += ToFloat(w.at[i]) * ToFloat(v.at[i]);
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void WriteOutput(const FewRowsArgs& a, int row,
                                            int output, float sum) {
  if (a.bias != nullptr) sum += ToFloat(static_cast<const T*>(a.bias)[output]);
  if (a.relu) sum = fmaxf(sum, 0.0f);
  const int64_t at = row * a.y_stride + output;
  if (a.float_outputs) {
    static_cast<float*>(a.y)[at] = sum;
  } else {
    FromFloat(sum, static_cast<T*>(a.y) + at);
  }
}

template <class T, int kRows>
__device__ void Consume(const FewRowsArgs& a, const Walk& walk, const T* ring,
                        uint64_t* full, uint64_t* empty) {
  using R = Ring<kRows>;
  const int warp = WarpInBlock();
  WaitForPrevious();
  AllowNext();
  float sums[kRows] = {};
  const int stages = walk.Stages();
  for (int s = 0; s < stages; ++s) {
    const int slot = s % R::kStages, chunk = s % walk.chunks;
    const T* shared = ring + slot * R::kElements;
    Wait(full + slot, (s / R::kStages) & 1);
    AddChunk<T, kRows>(shared + warp * kChunk, shared + kGroup * kChunk,
                       ChunkColumns(a, chunk), sums);
    __syncwarp();
    if (Lane() == 0) Arrive(empty + slot);
    if (chunk + 1 < walk.chunks) continue;
    const int output = walk.FirstOutput(s) + warp;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = WarpReduce(sums[r], Plus());
      sums[r] = 0;
      if (Lane() == r && r < a.rows && output < walk.end) {
        WriteOutput<T>(a, r, output, sum);
      }
    }
  }
}

template <class T, int kRows>
__global__ void __launch_bounds__(kThreads, 1) FewRowsKernel(FewRowsArgs a) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ uint64_t full[kMaxStages], empty[kMaxStages];
  if (threadIdx.x == 0) {
    for (int s = 0; s < Ring<kRows>::kStages; ++s) {
      InitBarrier(full + s, 1);
      InitBarrier(empty + s, kGroup);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  T* ring = reinterpret_cast<T*>(memory);
  const Walk walk(a);
  if (WarpInBlock() == kGroup) {
    Produce<T, kRows>(a, walk, ring, full, empty);
  } else {
    Consume<T, kRows>(a, walk, ring, full, empty);
  }
#else
  __trap();  // not launched: FewRowsSupported
#endif
}

template <class T, int kRows>
cudaError_t LaunchRows(const FewRowsArgs& args, int processors,
                       cudaStream_t stream) {
  const auto kernel = FewRowsKernel<T, kRows>;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Ring<kRows>::kBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(std::min(processors, args.outputs));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = Ring<kRows>::kBytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, args);
  return cudaGetLastError();
}

}  // namespace

bool FewRowsSupported(int rows) {
  return rows >= 1 && rows <= kFewRows && LaunchesOverlap();
}

cudaError_t FewRows(const FewRowsArgs& args, cudaStream_t stream) {
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  return DispatchFormat(args.dtype, [&](auto number) {
    using T = decltype(number);
    switch (args.rows) {
      case 1:
        return LaunchRows<T, 1>(args, processors, stream);
      case 2:
        return LaunchRows<T, 2>(args, processors, stream);
      default:
        return LaunchRows<T, kFewRows>(args, processors, stream);
    }
  });
}

}  // namespace h2o::cuda
