// Rounds rows of x to whole numbers, in the order of int4 codes.
#include <cstdint>

#include "base/kv_page.h"
#include "kernels/cuda/coded_weights.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"
#include "kernels/cuda/whole_rows.h"

namespace h2o::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kOfLane = kTileInputs / kWarp;  // inputs
static_assert(kOfLane == 4);

constexpr uint32_t kInfinityBits = 0x7f800000, kNanBits = 0x7fc00000;
// A group without a greater magnitude counts as zero: its scale may have no
// inverse.
constexpr float kLeastMagnitude = 1e-30f;

// A lane's numbers as two words of bytes, and their sum.
struct Words {
  uint32_t high = 0, low = 0;
  int sum = 0;

  __device__ Words(const float (&x)[kOfLane], float per_unit) {
#pragma unroll
    for (int e = 0; e < kOfLane; ++e) {
      const int whole = __float2int_rn(x[e] * per_unit);
      sum += whole;
      high |= ((whole + 128) >> 8 & 0xff) << (8 * e);
      low |= (whole & 0xff) << (8 * e);  // of whole - 256 high, as well
    }
  }
};

// A warp rounds a row's 128 inputs.  Lane 4 b + t has inputs 2t, 2t + 8, 2t + 1
// and 2t + 9 of block b of 16.
template <class T>
__global__ void __launch_bounds__(kThreads)
    RoundToWholeKernel(const __grid_constant__ RoundToWholeArgs a) {
  AllowNext();
  const int piece = blockIdx.x * (kThreads / kWarp) + WarpInBlock();
  const int row = blockIdx.y;
  if (piece >= a.inputs / kTileInputs) return;
  const int first = piece * kTileInputs + Lane() / 4 * 16 + Lane() % 4 * 2;
  const T* const x = static_cast<const T*>(a.x) + row * a.x_stride;
  float in[kOfLane];
  uint32_t greatest = 0;
  WaitForPrevious();
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    Vector<T, 2> two = {};
    if (first + 8 * pair < a.x_stride) two = Load<2>(x + first + 8 * pair);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      in[2 * e + pair] = ToFloat(two.at[e]);
      greatest = max(greatest, __float_as_uint(fabsf(in[2 * e + pair])));
    }
  }
  const uint32_t lanes = a.group == kTileInputs ? kAllLanes
                         : Lane() < kWarp / 2   ? 0x0000ffffu
                                                : 0xffff0000u;
  greatest = __reduce_max_sync(lanes, greatest);
  const float magnitude = __uint_as_float(greatest);
  const bool finite = greatest < kInfinityBits;
  const bool counts = finite && magnitude > kLeastMagnitude;
  const Words words(in, counts ? kMostWholeNumber / magnitude : 0.0f);
  const int sum = __reduce_add_sync(lanes, words.sum);
  auto* const numbers = reinterpret_cast<uint32_t*>(a.out.numbers) +
                        row * (a.inputs / kOfLane) + piece * kWarp + Lane();
  numbers[0] = words.high;
  numbers[a.room * (a.inputs / kOfLane)] = words.low;
  if (Lane() % (a.group / kOfLane) == 0) {
    const int group = (piece * kTileInputs + Lane() * kOfLane) / a.group;
    const float scale = counts ? magnitude / kMostWholeNumber : 0.0f;
    a.out.groups[int64_t{group} * a.room + row] = {
        sum, finite ? scale : __uint_as_float(kNanBits)};
  }
}

}  // namespace

cudaError_t RoundToWhole(const RoundToWholeArgs& args, cudaStream_t stream) {
  constexpr int64_t kOfBlock = kThreads / kWarp;
  const int64_t pieces = args.inputs / kTileInputs;
  return DispatchFormat(args.dtype, [&](auto number) {
    return Launch(RoundToWholeKernel<decltype(number)>,
                  {.grid = dim3(CeilDiv(pieces, kOfBlock), args.rows),
                   .threads = kThreads},
                  stream, args);
  });
}

}  // namespace h2o::cuda
