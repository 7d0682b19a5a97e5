// Attention over whole prompts, and what of them the cache keeps.
//
// Three kernels, one after the other on a stream:
//
//   Attend        flash attention.  A block owns kQueries queries of one head
//                 of one prompt and walks over the key tiles at or before them.
//                 Writes the output and the log-sum-exp of each query.
//   SumColumns    the other way round: a block owns kKeys keys and walks over
//                 the queries at or behind them.  With the log-sum-exp known, a
//                 probability is one exp2, and a key's score the sum of a row
//                 that one warp owns: no atomics, and the same bits whatever
//                 else is in the batch.
//   Store         selects what the policy keeps and copies it into the pages.
//
// Both walks have one shape: 8 warps hold 16 rows each of the block's own tile
// and multiply them by tiles of kTile rows that cp.async brings ahead of time.
// Warps 0-3 and 4-7 are two groups of 64 rows.  On sm_90a a group multiplies by
// wgmma, elsewhere each warp by mma.sync; the fragments of both are alike, so
// what lies between the products is written once.
//
// A tile in shared memory is cut into panels of 64 columns, a row of a panel
// being 128 bytes whose 16-byte chunks are permuted by the row number: every
// ldmatrix then meets 8 different bank groups, and wgmma knows the layout as
// its 128-byte swizzle.  The last 16 columns of head_dim 80 are a panel of
// 32-byte rows in the 32-byte swizzle.
//
// Rows behind the end of a prompt are zeros in shared memory, so that nothing
// computed from them is infinite or NaN; a causal mask or a missing store keeps
// them out of the results.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "base/head_dim.h"
#include "base/kv_page.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kGroupRows = 64;            // of a warp group
constexpr int kQueries = 2 * kGroupRows;  // of a block of Attend
constexpr int kKeys = 2 * kGroupRows;     // of a block of SumColumns
constexpr int kTile = 64;                 // rows of a tile walked over
constexpr int kFragments = kTile / 8;     // C fragments across a tile
constexpr int kAttendStages = 2;          // key and value tiles in flight
constexpr int kSumStages = 3;             // query tiles in flight
constexpr float kLog2E = 1.44269504088896340736f;

// Two blocks on an SM need 128 registers or less.  Without group products the
// queries stay in registers too: one block.
constexpr int kAttendBlocks = kHasGroupProducts ? 2 : 1;

template <int kDim>
constexpr float kScale = kDim == 64   ? 0.125f
                         : kDim == 80 ? 0.11180339887498948482f
                                      : 0.08838834764831844055f;

template <int kDim>
constexpr int TileBytes(int rows) {
  return rows * kDim * 2;
}

// ---- tiles in shared memory -------------------------------------------------

// Byte offset of 16-byte chunk `chunk` of row `row`.
template <int kDim, int kRows>
__device__ __forceinline__ int ChunkOffset(int row, int chunk) {
  if (kDim == 80 && chunk >= 8) {
    return kRows * 128 + row * 32 + (((chunk - 8) ^ (row >> 2 & 1)) << 4);
  }
  return chunk / 8 * (kRows * 128) + row * 128 + ((chunk % 8 ^ row % 8) << 4);
}

// The operand of a group product that starts at row `row` (a multiple of 8) and
// column 16 * `step`: 16 columns of many rows, or many columns of 16 rows.
template <int kDim, int kRows>
__device__ __forceinline__ uint64_t Operand(uint32_t tile, int row, int step) {
  if (kDim == 80 && step == 4) {
    return OperandAt(tile, Swizzle::k32Bytes, 256) +
           (kRows * 128 + row * 32) / 16;
  }
  return OperandAt(tile, Swizzle::k128Bytes, 1024) +
         (step / 4 * (kRows * 128) + row * 128 + step % 4 * 32) / 16;
}

// The number of this thread's warp, in a way that shows the compiler that all
// lanes have the same.
__device__ __forceinline__ int ThisWarp() {
  return __shfl_sync(~0u, threadIdx.x / 32, 0);
}

// threadIdx.x, for where it is cheaper to ask again than to keep a register.
__device__ __forceinline__ unsigned AskThread() {
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// Begins to copy kRows rows to `tile`, zeros from row `valid` on.
template <int kDim, int kRows, class T>
__device__ __forceinline__ void CopyTile(const T* rows, int64_t stride,
                                         int valid, uint32_t tile) {
  constexpr int kChunks = kDim / 8, kAll = kRows * kChunks;
  const unsigned thread = AskThread();
  if constexpr (kThreads % kChunks == 0) {
    // A thread keeps to one column of chunks and to one permutation.
    constexpr int kStep = kThreads / kChunks;
    static_assert(kStep % 8 == 0 && kRows % kStep == 0);
    const int first = thread / kChunks, chunk = thread % kChunks;
    const T* from = rows + first * stride + chunk * 8;
    tile += ChunkOffset<kDim, kRows>(first, chunk);
#pragma unroll
    for (int row = 0; row < kRows; row += kStep) {
      CopyAsync(tile + row * 128, from, first + row < valid);
      from += kStep * stride;
    }
  } else {
#pragma unroll
    for (int n = 0; n < kAll; n += kThreads) {
      const int i = n + thread, row = i / kChunks, chunk = i % kChunks;
      if (kAll % kThreads != 0 && i >= kAll) break;
      CopyAsync(tile + ChunkOffset<kDim, kRows>(row, chunk),
                rows + row * stride + chunk * 8, row < valid);
    }
  }
}

// ---- products ---------------------------------------------------------------

// The A fragments of the 16 rows from `row` on.
template <int kDim, int kRows>
__device__ __forceinline__ void LoadRows(uint32_t tile, int row,
                                         uint32_t (&a)[kDim / 16][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    LoadMatrices(
        tile + ChunkOffset<kDim, kRows>(row + lane % 16, 2 * step + lane / 16),
        a[step]);
  }
}

// s = a . rows of `tile`, by a warp.
template <class T, int kDim>
__device__ __forceinline__ void MultiplyRows(const uint32_t (&a)[kDim / 16][4],
                                             uint32_t tile,
                                             float (&s)[kFragments][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kFragments; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) s[j][e] = 0;
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int j = 0; j < kFragments; j += 2) {
      uint32_t b[4];  // rows 8 j: b0, b1; rows 8 j + 8: b0, b1
      LoadMatrices(
          tile + ChunkOffset<kDim, kTile>(8 * j + lane / 16 * 8 + lane % 8,
                                          2 * step + lane / 8 % 2),
          b);
      Multiply<T>(s[j], a[step], b[0], b[1]);
      Multiply<T>(s[j + 1], a[step], b[2], b[3]);
    }
  }
}

// The same by a warp group.
template <class T, int kDim>
__device__ __forceinline__ void GroupMultiplyRows(
    const uint32_t (&a)[kDim / 16][4], uint32_t tile,
    float (&s)[kFragments][4]) {
  FenceProducts();
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    GroupMultiply<T, false>(s, a[step], Operand<kDim, kTile>(tile, 0, step),
                            step > 0);
  }
  CommitProducts();
  WaitForProducts();
  Settle(s);
}

// s = queries from `row` on . keys, by a warp group that has no registers to
// spare for the queries.
template <class T, int kDim>
__device__ __forceinline__ void GroupMultiplyShared(uint32_t queries, int row,
                                                    uint32_t keys,
                                                    float (&s)[kFragments][4]) {
  FenceProducts();
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    GroupMultiply<T>(s, Operand<kDim, kQueries>(queries, row, step),
                     Operand<kDim, kTile>(keys, 0, step), step > 0);
  }
  CommitProducts();
  WaitForProducts();
  Settle(s);
}

// o += p . values, by a warp.
template <class T, int kDim>
__device__ __forceinline__ void AddValues(const uint32_t (&p)[kTile / 16][4],
                                          uint32_t values,
                                          float (&o)[kDim / 8][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kTile / 16; ++step) {
#pragma unroll
    for (int j = 0; j < kDim / 8; j += 2) {
      uint32_t b[4];  // columns 8 j: b0, b1; columns 8 j + 8: b0, b1
      LoadTransposed(values + ChunkOffset<kDim, kTile>(16 * step + lane % 16,
                                                       j + lane / 16),
                     b);
      Multiply<T>(o[j], p[step], b[0], b[1]);
      Multiply<T>(o[j + 1], p[step], b[2], b[3]);
    }
  }
}

// The same by a warp group.
template <class T, int kDim>
__device__ __forceinline__ void GroupAddValues(
    const uint32_t (&p)[kTile / 16][4], uint32_t values,
    float (&o)[kDim / 8][4]) {
  FenceProducts();
#pragma unroll
  for (int step = 0; step < kTile / 16; ++step) {
    GroupMultiply<T, true>(o, p[step],
                           Operand<kDim, kTile>(values, 16 * step, 0), true);
    if constexpr (kDim > 64) {
      const uint64_t rest = Operand<kDim, kTile>(values, 16 * step, 4);
      if constexpr (kDim == 80) {
        GroupMultiplyNarrow<T>(o + 8, p[step], rest);
      } else {
        GroupMultiply<T, true>(o + 8, p[step], rest, true);
      }
    }
  }
  CommitProducts();
  WaitForProducts();
  Settle(o);
}

// The causal mask of a tile on the diagonal: sets s to -infinity wherever
// hidden(row, column), for 64 rows of the group and 64 columns of the tile.
template <class Hidden>
__device__ __forceinline__ void MaskDiagonal(float (&s)[kFragments][4],
                                             Hidden hidden) {
  const unsigned thread = AskThread();
  const int row = thread % 128 / 32 * 16 + thread % 32 / 4;
  const int column = thread % 4 * 2;
#pragma unroll
  for (int j = 0; j < kFragments; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (hidden(row + e / 2 * 8, column + 8 * j + e % 2)) s[j][e] = -INFINITY;
    }
  }
}

// ---- Attend -----------------------------------------------------------------

// The greatest of the 4 lanes that share a row, and their sum, for each of
// them.
__device__ __forceinline__ float RowMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float RowSum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// The softmax of a lane's two rows (g and g + 8) so far.
struct Rows {
  float greatest[2] = {-INFINITY, -INFINITY};  // of q . k, not scaled
  float sum[2] = {0, 0};  // of exp((q . k - greatest) * scale), this lane's
};

// One step of the online softmax.  s becomes probabilities relative to the new
// maximum, as A fragments in p; o is rescaled to that maximum.
template <class T, int kDim>
__device__ __forceinline__ void Soften(float (&s)[kFragments][4], Rows* rows,
                                       float (&o)[kDim / 8][4],
                                       uint32_t (&p)[kTile / 16][4]) {
  constexpr float kFactor = kScale<kDim> * kLog2E;
  float shift[2], sum[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float greatest = rows->greatest[half];
#pragma unroll
    for (int j = 0; j < kFragments; ++j) {
      greatest = fmaxf(greatest, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    }
    greatest = RowMax(greatest);
    // A row's first tile holds key 0 at least, so `greatest` is finite.
    const float decay = Exp2((rows->greatest[half] - greatest) * kFactor);
    rows->greatest[half] = greatest;
    rows->sum[half] *= decay;
    shift[half] = greatest * kFactor;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      o[j][2 * half] *= decay;
      o[j][2 * half + 1] *= decay;
    }
  }
#pragma unroll
  for (int step = 0; step < kTile / 16; ++step) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int half = e % 2;
      const float* pair = &s[2 * step + e / 2][2 * half];
      const float low = Exp2(fmaf(pair[0], kFactor, -shift[half]));
      const float high = Exp2(fmaf(pair[1], kFactor, -shift[half]));
      sum[half] += low + high;
      p[step][e] = Pack<T>(low, high);
    }
  }
  rows->sum[0] += sum[0];
  rows->sum[1] += sum[1];
}

// Writes the warp's 16 rows of o, through its own rows of `tile` so that whole
// chunks go out; rows from `valid` on stay unwritten.
template <class T, int kDim>
__device__ __forceinline__ void WriteRows(const float (&o)[kDim / 8][4],
                                          const float (&factor)[2],
                                          unsigned char* tile, int row, T* out,
                                          int64_t stride, int valid) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = ChunkOffset<kDim, kQueries>(row + g + 8 * half, j) + t * 4;
      *reinterpret_cast<uint32_t*>(tile + at) = Pack<T>(
          o[j][2 * half] * factor[half], o[j][2 * half + 1] * factor[half]);
    }
  }
  __syncwarp();
  constexpr int kChunks = kDim / 8;
#pragma unroll
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int r = row + i / kChunks, chunk = i % kChunks;
    if (r < valid) {
      *reinterpret_cast<uint4*>(out + r * stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(
              tile + ChunkOffset<kDim, kQueries>(r, chunk));
    }
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, kAttendBlocks)
    AttendKernel(const PrefillAttentionArgs args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  constexpr int kTileBytes = TileBytes<kDim>(kTile);
  const uint32_t queries = SharedAddress(memory);
  const uint32_t stages = queries + TileBytes<kDim>(kQueries);

  const int head = blockIdx.x, prompt = blockIdx.z;
  const int begin = args.starts[prompt];
  const int length = args.starts[prompt + 1] - begin;
  // The longest walks first.
  const int first_query = (gridDim.y - 1 - blockIdx.y) * kQueries;
  if (first_query >= length) return;

  const T* q =
      static_cast<const T*>(args.qkv) + begin * args.qkv_stride + head * kDim;
  const T* k = q + args.num_heads * kDim;
  const T* v = k + args.num_heads * kDim;
  const auto copy_keys_and_values = [&](int tile) {
    const uint32_t to = stages + tile % kAttendStages * (2 * kTileBytes);
    const int64_t from = tile * kTile * args.qkv_stride;
    const int valid = length - tile * kTile;
    CopyTile<kDim, kTile>(k + from, args.qkv_stride, valid, to);
    CopyTile<kDim, kTile>(v + from, args.qkv_stride, valid, to + kTileBytes);
  };
  CopyTile<kDim, kQueries>(q + first_query * args.qkv_stride, args.qkv_stride,
                           length - first_query, queries);
  copy_keys_and_values(0);
  CommitCopies();

  const int warp = ThisWarp();
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int group_row = warp / 4 * kGroupRows;  // in the query tile
  const int group_query = first_query + group_row;
  Rows rows;
  float o[kDim / 8][4];
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) o[j][e] = 0;
  }
  [[maybe_unused]] uint32_t a[kDim / 16][4];  // queries, where they fit

  const int tiles = CeilDiv(min(first_query + kQueries, length), kTile);
  for (int tile = 0; tile < tiles; ++tile) {
    WaitForCopies<0>();
    if constexpr (kHasGroupProducts) ShowToTensorCores();
    __syncthreads();  // this tile is here, and nobody uses the one before
    if (tile + 1 < tiles) {
      copy_keys_and_values(tile + 1);
      CommitCopies();
    }
    if constexpr (!kHasGroupProducts) {
      if (tile == 0) LoadRows<kDim, kQueries>(queries, warp * 16, a);
    }
    // Not for keys behind all queries of the group, nor without queries.
    const int first_key = tile * kTile;
    if (first_key > group_query || group_query >= length) continue;

    const uint32_t keys = stages + tile % kAttendStages * (2 * kTileBytes);
    float s[kFragments][4];
    if constexpr (kHasGroupProducts) {
      GroupMultiplyShared<T, kDim>(queries, group_row, keys, s);
    } else {
      MultiplyRows<T, kDim>(a, keys, s);
    }
    if (first_key == group_query) {
      MaskDiagonal(s, [](int query, int key) { return key > query; });
    }
    uint32_t p[kTile / 16][4];
    Soften<T, kDim>(s, &rows, o, p);
    if constexpr (kHasGroupProducts) {
      GroupAddValues<T, kDim>(p, keys + kTileBytes, o);
    } else {
      AddValues<T, kDim>(p, keys + kTileBytes, o);
    }
  }
  __syncthreads();  // the queries' place is free

  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = RowSum(rows.sum[half]);
    inverse[half] = 1 / sum;
    const int query = first_query + warp * 16 + g + 8 * half;
    if (t == 0 && query < length) {
      args.log_sum_exp[static_cast<int64_t>(head) * args.rows + begin + query] =
          rows.greatest[half] * kScale<kDim> + logf(sum);
    }
  }
  WriteRows<T, kDim>(o, inverse, memory, warp * 16,
                     static_cast<T*>(args.out) +
                         (begin + first_query) * args.out_stride + head * kDim,
                     args.out_stride, length - first_query);
}

// ---- SumColumns -------------------------------------------------------------

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    SumColumnsKernel(const PrefillAttentionArgs args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  constexpr int kTileBytes = TileBytes<kDim>(kTile);
  constexpr float kFactor = kScale<kDim> * kLog2E;
  const uint32_t keys = SharedAddress(memory);
  const uint32_t stages = keys + TileBytes<kDim>(kKeys);
  // exp2(s * kFactor + shifts[i]) is the probability that query first_key + i
  // gives; 0 for those behind the end.
  float* const shifts = reinterpret_cast<float*>(
      memory + TileBytes<kDim>(kKeys) + kSumStages * kTileBytes);

  const int head = blockIdx.x, prompt = blockIdx.z;
  const int begin = args.starts[prompt];
  const int length = args.starts[prompt + 1] - begin;
  const int first_key = blockIdx.y * kKeys;  // the longest walks first
  if (first_key >= length) return;
  if (args.heads[prompt] == nullptr) return;  // nobody keeps it
  if (args.heads[prompt][args.layer * args.num_heads + head].slots.score_rule !=
      ScoreRule::kSum) {
    return;
  }

  const T* q =
      static_cast<const T*>(args.qkv) + begin * args.qkv_stride + head * kDim;
  const T* k = q + args.num_heads * kDim + first_key * args.qkv_stride;
  const int first_tile = first_key / kTile, tiles = CeilDiv(length, kTile);
  // Commits a group for every tile, there or not, so that they can be counted.
  const auto copy_queries = [&](int tile) {
    if (tile < tiles) {
      CopyTile<kDim, kTile>(q + tile * kTile * args.qkv_stride, args.qkv_stride,
                            length - tile * kTile,
                            stages + tile % kSumStages * kTileBytes);
    }
    CommitCopies();
  };
  CopyTile<kDim, kKeys>(k, args.qkv_stride, length - first_key, keys);
#pragma unroll
  for (int n = 0; n < kSumStages - 1; ++n) copy_queries(first_tile + n);

  const int64_t row_of_scores = static_cast<int64_t>(head) * args.rows + begin;
  for (int i = threadIdx.x; i < tiles * kTile - first_key; i += kThreads) {
    shifts[i] = first_key + i < length
                    ? -args.log_sum_exp[row_of_scores + first_key + i] * kLog2E
                    : -INFINITY;
  }

  const int warp = ThisWarp();
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int group_key = first_key + warp / 4 * kGroupRows;
  uint32_t a[kDim / 16][4];
  float sums[2] = {0, 0};
  for (int tile = first_tile; tile < tiles; ++tile) {
    WaitForCopies<kSumStages - 2>();
    if constexpr (kHasGroupProducts) ShowToTensorCores();
    __syncthreads();  // this tile is here, and nobody uses the one before
    copy_queries(tile + kSumStages - 1);
    if (tile == first_tile) LoadRows<kDim, kKeys>(keys, warp * 16, a);
    const int first_query = tile * kTile;
    if (first_query < group_key) continue;

    const uint32_t queries = stages + tile % kSumStages * kTileBytes;
    float s[kFragments][4];
    if constexpr (kHasGroupProducts) {
      GroupMultiplyRows<T, kDim>(a, queries, s);
    } else {
      MultiplyRows<T, kDim>(a, queries, s);
    }
    if (first_query == group_key) {
      MaskDiagonal(s, [](int key, int query) { return key > query; });
    }
    const float* tile_shifts = shifts + (first_query - first_key);
    float tile_sums[2] = {0, 0};  // added apart: fewer roundings
#pragma unroll
    for (int j = 0; j < kFragments; ++j) {
      const float2 shift =
          *reinterpret_cast<const float2*>(tile_shifts + 8 * j + 2 * t);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        tile_sums[e / 2] +=
            Exp2(fmaf(s[j][e], kFactor, e % 2 ? shift.y : shift.x));
      }
    }
    sums[0] += tile_sums[0];
    sums[1] += tile_sums[1];
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = RowSum(sums[half]);
    const int key = first_key + warp * 16 + g + 8 * half;
    if (t == 0 && key < length) args.scores[row_of_scores + key] = sum;
  }
}

// ---- Store ------------------------------------------------------------------

// How many of keys[0, length) are `least` or more, told to every thread.
// `counts` [kWarps] may be written again after the barrier of another call.
__device__ __forceinline__ int CountFrom(const uint32_t* keys, int length,
                                         uint32_t least, int* counts) {
  int count = 0;
  for (int i = threadIdx.x; i < length; i += kThreads) {
    count += keys[i] >= least;
  }
  count = __reduce_add_sync(~0u, count);
  if (threadIdx.x % 32 == 0) counts[threadIdx.x / 32] = count;
  __syncthreads();
  count = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) count += counts[w];
  return count;
}

// The sum of `x` over the threads before this one; that over all in *total.
__device__ __forceinline__ uint32_t SumBefore(uint32_t x, uint32_t* sums,
                                              uint32_t* total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t sum = x;  // up to and with this lane
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  uint32_t before = sum - x;
  *total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += sums[w];
    *total += sums[w];
  }
  return before;
}

// Writes the positions that `slots` keep of a prompt longer than their capacity
// C to kept[0, C), ascending.  scores: null if all are alike.  `keys` is for
// `length` numbers.
//
// Scores are not negative, so their bits order as integers.  Sinks and recent
// tokens get the greatest key of all.  The C tokens with the greatest keys are
// kept: all over a threshold, and the oldest of those equal to it.  The
// threshold, the greatest key that C keys reach, is found bit by bit.
__device__ void SelectKept(const KvSlots& slots, const float* scores,
                           int length, uint32_t* keys, uint16_t* kept) {
  __shared__ int counts[2][kWarps];
  __shared__ uint32_t sums[kWarps];
  const int capacity = slots.Capacity();
  const int first_recent = length - slots.prefill_recent;
  for (int i = threadIdx.x; i < length; i += kThreads) {
    if (i < slots.sinks || i >= first_recent) {
      keys[i] = ~0u;
    } else {
      keys[i] = scores ? __float_as_uint(scores[i]) & 0x7fffffff : 0;
    }
  }
  __syncthreads();
  uint32_t threshold = 0;
  for (int bit = 30; bit >= 0; --bit) {
    const uint32_t candidate = threshold | 1u << bit;
    const int count = CountFrom(keys, length, candidate, counts[bit % 2]);
    if (count >= capacity) threshold = candidate;
    if (count == capacity) break;
  }
  // Each thread goes through consecutive keys, an odd number of them so that
  // the threads of a warp meet different banks.  16 bits count those over the
  // threshold, 16 those equal to it: a block has shared memory for no more.
  const int each = CeilDiv(length, kThreads) | 1;
  const int from = min(static_cast<int>(threadIdx.x) * each, length);
  const int to = min(from + each, length);
  uint32_t mine = 0, total;
  for (int i = from; i < to; ++i) {
    mine += keys[i] > threshold ? 1 : keys[i] == threshold ? 1 << 16 : 0;
  }
  const uint32_t before = SumBefore(mine, sums, &total);
  const int equals_kept = capacity - static_cast<int>(total & 0xffff);
  int over = before & 0xffff, equal = before >> 16;
  for (int i = from; i < to; ++i) {
    const bool is_over = keys[i] > threshold, is_equal = keys[i] == threshold;
    if (is_over || (is_equal && equal < equals_kept)) {
      kept[over + min(equal, equals_kept)] = i;
    }
    over += is_over;
    equal += is_equal;
  }
  __syncthreads();
}

// One head of one prompt; the blocks of a z axis share the copying.
template <int kDim>
__global__ void __launch_bounds__(kThreads)
    StoreKernel(const PrefillAttentionArgs args) {
  extern __shared__ __align__(1024) unsigned char memory[];
  constexpr int kChunks = kDim / 8;  // of 16 bytes, of a key or a value
  constexpr int kInFlight = 4;       // chunks of a thread
  const int h = blockIdx.x, prompt = blockIdx.y;
  const int begin = args.starts[prompt];
  const int length = args.starts[prompt + 1] - begin;
  if (args.heads[prompt] == nullptr) return;  // nobody keeps it
  KvHead* head = args.heads[prompt] + args.layer * args.num_heads + h;
  const KvSlots slots = head->slots;
  const uint32_t* pages = args.pool.tables + head->table;
  constexpr KvPageLayout kPage{kDim, {DType::kBFloat16}};  // of 16 bits
  const float* scores =
      args.scored && slots.score_rule == ScoreRule::kSum
          ? args.scores + static_cast<int64_t>(h) * args.rows + begin
          : nullptr;

  uint32_t* keys = reinterpret_cast<uint32_t*>(memory);
  uint16_t* kept = reinterpret_cast<uint16_t*>(keys + length);
  const bool all = length <= slots.Capacity();
  const int stored = all ? length : slots.Capacity();
  if (!all) SelectKept(slots, scores, length, keys, kept);
  const auto position_of = [&](int slot) -> int {
    return all ? slot : kept[slot];
  };

  const int share = CeilDiv(stored, static_cast<int>(gridDim.z));
  const int first = min(static_cast<int>(blockIdx.z) * share, stored);
  const int last = min(first + share, stored);
  const unsigned char* k =
      static_cast<const unsigned char*>(args.qkv) +
      (begin * args.qkv_stride + (args.num_heads + h) * kDim) * 2;
  const int64_t to_value = static_cast<int64_t>(args.num_heads) * kDim * 2;
  const int count = (last - first) * 2 * kChunks;
  for (int base = threadIdx.x; base < count; base += kInFlight * kThreads) {
    uint4 data[kInFlight];
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      const int i = base + n * kThreads;
      if (i >= count) break;
      const int chunk = i % kChunks, is_value = i / kChunks % 2;
      const int position = position_of(first + i / (2 * kChunks));
      data[n] =
          *reinterpret_cast<const uint4*>(k + position * args.qkv_stride * 2 +
                                          is_value * to_value + chunk * 16);
    }
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      const int i = base + n * kThreads;
      if (i >= count) break;
      const int chunk = i % kChunks, is_value = i / kChunks % 2;
      const int slot = first + i / (2 * kChunks);
      std::byte* page = args.pool.Page(pages[slot / kPageSlots]);
      *reinterpret_cast<uint4*>(
          page + (is_value ? kPage.ValuesOffset() : kPage.KeysOffset()) +
          slot % kPageSlots * kDim * 2 + chunk * 16) = data[n];
    }
  }
  for (int slot = first + threadIdx.x; slot < last; slot += kThreads) {
    std::byte* page = args.pool.Page(pages[slot / kPageSlots]);
    const int position = position_of(slot), at = slot % kPageSlots;
    reinterpret_cast<float*>(page + kPage.ScoresOffset())[at] =
        scores ? scores[position] : 0;
    reinterpret_cast<uint16_t*>(page + kPage.PositionsOffset())[at] =
        static_cast<uint16_t>(position);
  }
  if (blockIdx.z == 0 && threadIdx.x == 0) head->num_slots = stored;
}

// ---- launches ---------------------------------------------------------------

// Enough blocks of Store to keep every SM copying.
constexpr int kStoreBlocks = 512;

template <class Kernel>
cudaError_t LaunchInTurn(Kernel* kernel, dim3 grid, int64_t shared_bytes,
                         const PrefillAttentionArgs& args,
                         cudaStream_t stream) {
  return Launch(kernel,
                {.grid = grid,
                 .threads = kThreads,
                 .shared_bytes = static_cast<int>(shared_bytes),
                 .overlaps = false},
                stream, args);
}

template <class T, int kDim>
cudaError_t LaunchAll(const PrefillAttentionArgs& args, cudaStream_t stream) {
  const int heads = args.num_heads, prompts = args.num_prompts;
  const int tile_bytes = TileBytes<kDim>(kTile);
  const dim3 query_grid(heads, CeilDiv(args.max_length, kQueries), prompts);
  cudaError_t error = LaunchInTurn(
      AttendKernel<T, kDim>, query_grid,
      TileBytes<kDim>(kQueries) + kAttendStages * 2 * tile_bytes, args, stream);
  if (error != cudaSuccess) return error;
  if (args.scored) {
    const dim3 key_grid(heads, CeilDiv(args.max_length, kKeys), prompts);
    error = LaunchInTurn(SumColumnsKernel<T, kDim>, key_grid,
                         TileBytes<kDim>(kKeys) + kSumStages * tile_bytes +
                             CeilDiv(args.max_length, kTile) * kTile * 4,
                         args, stream);
    if (error != cudaSuccess) return error;
  }
  const dim3 store_grid(heads, prompts,
                        std::clamp(kStoreBlocks / (heads * prompts), 1, 8));
  return LaunchInTurn(
      StoreKernel<kDim>, store_grid,
      args.max_length * int64_t{sizeof(uint32_t) + sizeof(uint16_t)}, args,
      stream);
}

}  // namespace

cudaError_t PrefillAttention(const PrefillAttentionArgs& args,
                             cudaStream_t stream) {
  if (args.num_prompts == 0 || args.max_length == 0) return cudaSuccess;
  return DispatchFormat(args.dtype, [&](auto format) {
    return DispatchHeadDim(
        args.pool.head_dim, cudaErrorInvalidValue, [&]<int kDim>() {
          return LaunchAll<decltype(format), kDim>(args, stream);
        });
  });
}

}  // namespace h2o::cuda
