// Brings codes from the order of rows into that of the tensor cores
// (coded_weights.cuh).
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

}  // namespace h2o::cuda
