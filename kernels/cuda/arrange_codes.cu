// Brings codes from the order of rows into that of the tensor cores
// (coded_weights.cuh), and widens them to rows of 16 bits.
#include <cstdint>

#include "kernels/cuda/coded_weights.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {
namespace {

constexpr int kThreads = 128;  // a warp group's: each has its own fragments
constexpr int kTileHalf = kTileOutputs / 2;

// A pair's outputs and inputs in a tile, of thread `thread` of a warp group.
struct PairPlace {
  int output, input;  // the second is at input + 1

  __device__ PairPlace(int half, int thread, int step, int pair)
      : output(kTileHalf * half + thread / kWarp * 16 + thread % kWarp / 4 +
               8 * (pair % 2)),
        input(16 * step + 2 * (thread % 4) + 8 * (pair / 2)) {}
};

// Code `input` of a row of codes in order.
template <WeightFormat kFormat>
__device__ __forceinline__ uint32_t CodeAt(const uint8_t* row, int64_t input) {
  if constexpr (kFormat != WeightFormat::kInt4) return row[input];
  return row[input / 2] >> (input % 2 * 4) & 15;
}

// Block (piece, tile) arranges a tile, thread by thread.
template <WeightFormat kFormat>
__global__ void __launch_bounds__(kThreads)
    ArrangeKernel(const __grid_constant__ ArrangeCodesArgs a) {
  using Tile = CodedTile<kFormat>;
  const int64_t row_bytes = a.inputs * Tile::kBits / 8;
  const int64_t tile = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  auto* const to = reinterpret_cast<uint32_t*>(
      static_cast<std::byte*>(a.arranged) + tile * Tile::kBytes);
  const auto* const from = static_cast<const uint8_t*>(a.codes);
  const auto code = [&](const PairPlace& at, int element) -> uint32_t {
    const int64_t output = int64_t{blockIdx.y} * kTileOutputs + at.output;
    if (output >= a.outputs) return 0;
    const int64_t input = int64_t{blockIdx.x} * kTileInputs + at.input;
    return CodeAt<kFormat>(from + output * row_bytes, input + element);
  };
  constexpr int kWordsOfStep = Tile::kBits / 4;
  constexpr int kPairs = 4 / kWordsOfStep;  // of a word
  for (int half = 0; half < 2; ++half) {
    for (int step = 0; step < kTileSteps; ++step) {
      const int vector = step / Tile::kStepsOfVector;
      const int first = ((half * Tile::kVectors + vector) * kThreads +
                         static_cast<int>(threadIdx.x)) *
                            4 +
                        step % Tile::kStepsOfVector * kWordsOfStep;
      for (int w = 0; w < kWordsOfStep; ++w) {
        uint32_t word = 0;
        for (int p = 0; p < kPairs; ++p) {
          const PairPlace at(half, threadIdx.x, step, kPairs * w + p);
          word |= (code(at, 0) | code(at, 1) << 16) << (p * Tile::kBits);
        }
        to[first + w] = word;
      }
    }
  }
}

// The scales of int4 go along with their tiles.
__global__ void ArrangeScalesKernel(
    const __grid_constant__ ArrangeCodesArgs a) {
  const int output = threadIdx.x, of_piece = kTileInputs / a.group;
  const int64_t row = int64_t{blockIdx.y} * kTileOutputs + output;
  const int64_t tile = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  const int64_t groups = a.inputs / a.group;
  const auto* const from = static_cast<const GroupScale*>(a.scales);
  auto* const to = static_cast<GroupScale*>(a.arranged_scales);
  for (int g = 0; g < of_piece; ++g) {
    GroupScale scale;
    if (row < a.outputs) {
      scale = from[row * groups + int64_t{blockIdx.x} * of_piece + g];
    }
    to[(tile * of_piece + g) * kTileOutputs + output] = scale;
  }
}

// What a thread widens of a tile, read at once: one after the other, its loads
// would take most of the time.
template <WeightFormat kFormat>
struct TilePart {
  using Tile = CodedTile<kFormat>;
  static constexpr bool kInGroups = kFormat == WeightFormat::kInt4;
  uint4 vectors[2][Tile::kVectors];  // of both halves
  GroupScale scales[2][2][2];        // of int4 [half][group][output g or g + 8]

  __device__ TilePart(const WidenCodesArgs& a, int64_t tile) {
    const auto* const codes = reinterpret_cast<const uint4*>(
        static_cast<const std::byte*>(a.codes) + tile * Tile::kBytes);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int v = 0; v < Tile::kVectors; ++v) {
        vectors[half][v] =
            __ldg(codes + (half * Tile::kVectors + v) * kThreads + threadIdx.x);
      }
    }
    if constexpr (kInGroups) {
      const int of_piece = kTileInputs / a.group;
      const auto* const groups = static_cast<const uint32_t*>(a.scales) +
                                 tile * of_piece * kTileOutputs;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const PairPlace at(i / 4, threadIdx.x, 0, i % 2);
        const int group = i / 2 % 2 * (of_piece - 1);
        scales[i / 4][i / 2 % 2][i % 2] = __builtin_bit_cast(
            GroupScale, __ldg(groups + group * kTileOutputs + at.output));
      }
    }
  }
};

// Block (piece, tile) widens a tile into rows of 16 bits.
template <class T, WeightFormat kFormat>
__global__ void __launch_bounds__(kThreads)
    WidenKernel(const __grid_constant__ WidenCodesArgs a) {
  using Tile = CodedTile<kFormat>;
  constexpr bool kInGroups = kFormat == WeightFormat::kInt4;
  __shared__ __align__(16) T wide[kTileOutputs][kTileInputs + 8];
  const int64_t first_tile = a.first_output / kTileOutputs;
  const TilePart<kFormat> part(
      a, (first_tile + blockIdx.y) * int64_t{gridDim.x} + blockIdx.x);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int step = 0; step < kTileSteps; ++step) {
      PairScale scales[2] = {};
      if constexpr (kInGroups) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          scales[r] =
              ToPairScale<T>(part.scales[half][step / (kTileSteps / 2)][r]);
        }
      }
      uint32_t pairs[4];
      WidenStep<T, kFormat>(part.vectors[half][step / Tile::kStepsOfVector],
                            step % Tile::kStepsOfVector, scales, pairs);
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const PairPlace at(half, threadIdx.x, step, p);
        *reinterpret_cast<uint32_t*>(&wide[at.output][at.input]) = pairs[p];
      }
    }
  }
  __syncthreads();
  constexpr int kLanes = kTileInputs / 8;  // of a row, 16 bytes each
  const int column = threadIdx.x % kLanes * 8;
  if (int64_t{blockIdx.x} * kTileInputs + column >= a.columns) return;
#pragma unroll 4
  for (int r = threadIdx.x / kLanes; r < kTileOutputs; r += kThreads / kLanes) {
    const int64_t output = int64_t{blockIdx.y} * kTileOutputs + r;
    if (output >= a.outputs) continue;
    Vector<T, 8> eight = Load<8>(&wide[r][column]);
    if constexpr (!kInGroups) {
      const float scale =
          __ldg(static_cast<const float*>(a.scales) + a.first_output + output);
#pragma unroll
      for (T& x : eight.at) FromFloat(ToFloat(x) * scale, &x);
    }
    Store(eight, static_cast<T*>(a.wide) + output * a.stride +
                     int64_t{blockIdx.x} * kTileInputs + column);
  }
}

// Calls fn with a constant of a format of codes.
template <class Fn>
cudaError_t DispatchCodes(WeightFormat format, Fn&& fn) {
  switch (format) {
    case WeightFormat::kFp8:
      return fn.template operator()<WeightFormat::kFp8>();
    case WeightFormat::kInt8:
      return fn.template operator()<WeightFormat::kInt8>();
    case WeightFormat::kInt4:
      return fn.template operator()<WeightFormat::kInt4>();
    default:
      return cudaErrorInvalidValue;
  }
}

dim3 Tiles(int64_t outputs, int64_t inputs) {
  return dim3(static_cast<unsigned>(CeilDiv(inputs, int64_t{kTileInputs})),
              static_cast<unsigned>(CeilDiv(outputs, int64_t{kTileOutputs})));
}

}  // namespace

cudaError_t ArrangeCodes(const ArrangeCodesArgs& args, cudaStream_t stream) {
  const dim3 tiles = Tiles(args.outputs, args.inputs);
  const cudaError_t arranged =
      DispatchCodes(args.format, [&]<WeightFormat kFormat>() {
        ArrangeKernel<kFormat><<<tiles, kThreads, 0, stream>>>(args);
        return cudaGetLastError();
      });
  if (arranged != cudaSuccess || args.format != WeightFormat::kInt4) {
    return arranged;
  }
  ArrangeScalesKernel<<<tiles, kTileOutputs, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t WidenCodes(const WidenCodesArgs& args, cudaStream_t stream) {
  const dim3 tiles = Tiles(args.outputs, args.inputs);
  return DispatchFormat(args.dtype, [&](auto number) {
    using T = decltype(number);
    return DispatchCodes(args.format, [&]<WeightFormat kFormat>() {
      WidenKernel<T, kFormat><<<tiles, kThreads, 0, stream>>>(args);
      return cudaGetLastError();
    });
  });
}

}  // namespace h2o::cuda
