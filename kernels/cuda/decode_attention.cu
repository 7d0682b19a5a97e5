// One token of every row attends what its heads store, adds its probabilities
// to the scores, chooses the victim of the policy and is written over it: all
// in one launch.
//
// A block works on one head of one row; of a few long heads a cluster of
// blocks each takes a run of the pages.  The steps of a block:
//
//   1. The producer, a warp of its own, copies the pages into a ring of stages
//      in shared memory: the keys of all slots, then the values of all slots
//      with their scores and positions.  It starts while the kernels in front
//      still run.  That is safe because they do not write the cache: the
//      product writes only q, k and v, and the norm in front of it only what
//      the product reads (AllowNext, ptx.cuh).
//   2. The consumers, all other warps, hold q in registers and share the rows
//      of each stage.  Their dot products, and that of the token itself, are
//      put into shared memory as `weights`.
//   3. With all logits at hand their maximum and sum are exact before the
//      first value is read.  Each weight becomes exp2(logit - maximum).  The
//      ring fills with values meanwhile.
//   4. The consumers add weight * value, each lane over the rows it has met;
//      lanes, warps and blocks of the cluster are then summed in their order.
//      The producer, which has time, adds weight / sum to the scores of each
//      stage and finds the smallest: the victim.
//   5. When every row has been used the producer writes the token over the
//      victim, or into the next free slot.
//
// Every consumer thread arrives at the mbarriers.  One lane of each warp,
// behind __syncwarp, would be enough and no faster, but racecheck cannot follow
// that.  Nor can it follow a warp that waits at a named barrier while others
// use another one.  So the producer waits only at mbarriers until the end.
//
// Sums are float32 and in an order that depends on the shape of the launch
// alone.  Logits are in units of log2: q is scaled by log2(e) / sqrt(head_dim).
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/head_dim.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {

namespace {

constexpr int kFewestStages = 2, kMaxStages = 8;
// Blocks that should fit on an SM at a time: enough copies in flight for the
// whole memory rate, whatever phase each block is in.
constexpr int kBlocksOfSm = 4;
constexpr int kMaxSplit = 8;  // the largest cluster that every sm_90 runs
constexpr uint64_t kNoVictim = ~uint64_t{0};

struct Params {
  DecodeAttentionArgs args;
  float scale;  // of q
  int stages;
  int log2_split;
};

// How the rows (keys or values) of one stage fall to the lanes.  A lane takes
// kLaneChunks chunks of 8 channels of one row a pass; kRowLanes lanes share a
// row, so that a warp reads whole rows, which lie one behind the other.
template <int kHeadDim, int kWarps, bool kScored>
struct TileOf {
  static constexpr int kRowChunks = kHeadDim / 8;
  static constexpr int kRowLanes = kHeadDim == 80 ? 5 : kRowChunks;
  static constexpr int kLaneChunks = kRowChunks / kRowLanes;
  static constexpr int kWarpRows = 32 / kRowLanes;  // 80: 2 lanes are spare
  static constexpr int kPassRows = kWarps * kWarpRows;
  // Stages of whole pages in whole passes.
  static constexpr int kStagePages =
      kHeadDim == 80 ? 3 : 4 * kPassRows / kPageSlots;
  static constexpr int kStageSlots = kStagePages * kPageSlots;
  static constexpr int kPasses = kStageSlots / kPassRows;
  static_assert(kPasses * kPassRows == kStageSlots);

  static constexpr KvPageLayout kPage{kHeadDim, {DType::kBFloat16}};
  static constexpr int kRowBytes = kHeadDim * 2;
  static constexpr int kRunBytes = kPageSlots * kRowBytes;
  static constexpr int kRowsBytes = kStagePages * kRunBytes;
  static constexpr int kTailBytes = kPage.TailBytes();
  static constexpr int kStageBytes =
      kRowsBytes + (kScored ? kStagePages * kTailBytes : 0);
  static_assert(kPage.ValuesOffset() == kRunBytes);
  static_assert(kPage.ScoresOffset() % 16 == 0 && kTailBytes % 16 == 0);
  // The ring also takes the sums of all lanes in the end.
  static_assert(kPassRows * kHeadDim * 4 <= 2 * kStageBytes);
};

// ---- words ------------------------------------------------------------------

// std::bit_cast for the 16-bit types, which have constructors.
template <typename To, typename From>
__device__ __forceinline__ To Bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename T>
__device__ __forceinline__ float2 WidenPair(uint32_t pair) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  } else {
    return __half22float2(Bits<__half2>(pair));
  }
}

template <typename T>
__device__ __forceinline__ uint32_t NarrowPair(float2 pair) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return Bits<uint32_t>(__float22bfloat162_rn(pair));
  } else {
    return Bits<uint32_t>(__float22half2_rn(pair));
  }
}

template <typename T>
__device__ __forceinline__ void Widen(uint4 chunk, float (&out)[8]) {
  const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = WidenPair<T>(pairs[i]);
    out[2 * i] = pair.x;
    out[2 * i + 1] = pair.y;
  }
}

// Bits that order as the floats do (NaN above all), and back.
__device__ __forceinline__ uint32_t OrderedBits(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float FromOrderedBits(uint32_t bits) {
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

__device__ __forceinline__ float WarpMax(float x) {
  return FromOrderedBits(__reduce_max_sync(kAllLanes, OrderedBits(x)));
}

// The candidate with the smallest key is the victim.  Keys order by score, then
// by position, the larger one first.  The low 16 bits are the slot.
__device__ __forceinline__ uint64_t VictimKey(float score, int position,
                                              int slot) {
  return static_cast<uint64_t>(OrderedBits(score)) << 32 |
         static_cast<uint32_t>(0xffff - position) << 16 |
         static_cast<uint32_t>(slot);
}
__device__ __forceinline__ int VictimSlot(uint64_t key) { return key & 0xffff; }
__device__ __forceinline__ int VictimPosition(uint64_t key) {
  return 0xffff - static_cast<int>(key >> 16 & 0xffff);
}
__device__ __forceinline__ uint64_t WarpMin(uint64_t key) {
  const uint32_t high = key >> 32;
  const uint32_t least = __reduce_min_sync(kAllLanes, high);
  const uint32_t low = high == least ? static_cast<uint32_t>(key) : ~0u;
  return static_cast<uint64_t>(least) << 32 | __reduce_min_sync(kAllLanes, low);
}

// Sums x[i] over each group of kLanes neighbours, all i at once: at each step
// a lane passes on half of what it has.  Returns the sum for i = (lane %
// kLanes) / (kLanes / kCount).
template <int kLanes, int kCount>
__device__ __forceinline__ float SumEach(float (&x)[kCount], int lane) {
  static_assert(std::has_single_bit(unsigned{kLanes}) && kCount <= kLanes);
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    const int half = kCount * lanes / kLanes;
    const bool upper = lane & lanes;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float mine = upper ? x[i + half] : x[i];
      const float theirs = upper ? x[i] : x[i + half];
      x[i] = mine + __shfl_xor_sync(kAllLanes, theirs, lanes);
    }
    if (half == 0) x[0] += __shfl_xor_sync(kAllLanes, x[0], lanes);
  }
  return x[0];
}

// The sum over lanes 5 n .. 5 n + 4, in lane 5 n.
__device__ __forceinline__ float SumOfFive(float x) {
  const float two = x + __shfl_down_sync(kAllLanes, x, 1);
  const float four = two + __shfl_down_sync(kAllLanes, two, 2);
  return four + __shfl_down_sync(kAllLanes, x, 4);
}

// ---- the block --------------------------------------------------------------

// What lies in shared memory before the ring, the page table and the weights.
template <int kHeadDim, int kWarps, bool kClustered>
struct alignas(128) SharedOf {
  uint64_t full[kMaxStages];
  uint64_t empty[kMaxStages];
  uint64_t weighed;        // the weights and their sums are there
  float greatest[kWarps];  // logit of each warp
  float sums[kWarps];      // of its weights

  // What the blocks of a cluster tell each other; rank 0 hears the latter two.
  static constexpr int kRanks = kClustered ? kMaxSplit : 1;
  float2 rank_sums[kRanks];  // greatest logit of a rank, sum of its weights
  uint64_t rank_victims[kRanks];
  float2 rank_outs[kRanks][kHeadDim / 2];
};

template <typename T, int kHeadDim, int kWarps, bool kScored, bool kClustered>
class BlockOf {
 public:
  using Tile = TileOf<kHeadDim, kWarps, kScored>;
  using Shared = SharedOf<kHeadDim, kWarps, kClustered>;
  static constexpr int kConsumers = kWarps * 32;
  static constexpr int kThreads = kConsumers + 32;

  __device__ explicit BlockOf(const Params& params)
      : params_(params), args_(params.args) {
    row_ = blockIdx.y;
    head_ = blockIdx.x >> params.log2_split;
    rank_ = blockIdx.x & (Split() - 1);
    shared_ = reinterpret_cast<Shared*>(DynamicShared());
    ring_ = reinterpret_cast<std::byte*>(shared_ + 1);
    table_ =
        reinterpret_cast<uint32_t*>(ring_ + params.stages * Tile::kStageBytes);
    weights_ =
        reinterpret_cast<float*>(table_ + args_.max_slots / kPageSlots + 1);
  }

  __device__ void Run() {
    const KvHead* heads = LoadPointer(args_.heads + row_);
    position_ = __ldcg(args_.positions + row_);
    // Asks for both, so that both loads are under way before the branch.
    if ((position_ < 0) | (heads == nullptr)) return LeaveOut();
    Begin(heads);
    if (warp_ == kWarps) {
      Produce();
    } else {
      Consume();
    }
  }

 private:
  // ---- what there is to do

  __device__ void LeaveOut() {
    WaitForPrevious();  // it may still be busy with another use of `out`
    if (rank_ != 0) return;
    const int thread = threadIdx.x;
    if (thread < kHeadDim / 2) Out()[thread] = 0;
    if (thread == 0) SetEvicted(-1);
  }

  // Reads the head and its page table, makes the barriers.
  __device__ void Begin(const KvHead* heads) {
    head_kv_ = Load(heads + HeadIndex(head_));
    if (threadIdx.x == 0) {
#pragma unroll 1
      for (int i = 0; i < params_.stages; ++i) {
        InitBarrier(&shared_->full[i], CopyLanes());
        InitBarrier(&shared_->empty[i], kConsumers);
      }
      InitBarrier(&shared_->weighed, kConsumers);
      FenceBarrierInit();
    }
    const int stored = head_kv_.num_slots;
    if (stored > args_.max_slots) __trap();  // shared memory would be short
    full_ = stored >= head_kv_.slots.Capacity();
    sums_ = head_kv_.slots.score_rule == ScoreRule::kSum;
    const int pages = (stored + kPageSlots - 1) / kPageSlots;
    // With a free slot its page, which may be one more.
    const int known = full_ ? pages : stored / kPageSlots + 1;
#pragma unroll 1
    for (int i = threadIdx.x; i < known; i += kThreads) {
      table_[i] = __ldcg(args_.pool.tables + head_kv_.table + i);
    }
    first_page_ = pages * rank_ >> params_.log2_split;
    const int end = pages * (rank_ + 1) >> params_.log2_split;
    count_ = min(stored, end * kPageSlots) - first_page_ * kPageSlots;
    stages_ = (count_ + Tile::kStageSlots - 1) / Tile::kStageSlots;
    __syncthreads();
    if constexpr (kClustered) ClusterArrive();
  }

  // ---- the producer

  __device__ void Produce() {
    const int fills = 2 * stages_;
    const int ready = min(fills, params_.stages);
    RingCursor cursor;
    int fill = 0;
    if (lane_ < CopyLanes()) {
      for (; fill < ready; ++fill) Fill(fill, &cursor);
    }
    fill = ready;
    __syncwarp();
    WaitForPrevious();
    const uint4 token = LoadToken();
    if constexpr (kClustered) {
      ClusterWait();    // the other blocks run
      ClusterArrive();  // the consumers tell the sums, the producer has none
    }
    // The fills that reuse a stage of the ring which held keys.
    for (; fill < min(fills, stages_ + params_.stages); ++fill) {
      Refill(fill, &cursor);
    }
    // All kernels before this one are complete; the next one may rely on that
    // before its own wait.
    AllowNext();
    Wait(&shared_->weighed, 0);
    const Total total = TotalOf();
    if constexpr (kClustered) ClusterWait();
    const float inverse = Inverse(total);

    uint64_t victim = kNoVictim;
    RingCursor used = {stages_ % params_.stages,
                       static_cast<uint32_t>(stages_ / params_.stages & 1)};
    for (int i = 0; i < stages_; ++i, ++fill) {
      if (kScored && (sums_ || full_)) {
        Wait(&shared_->full[used.stage], used.parity);
        AddScores(i, used.stage, inverse, &victim);
        __syncwarp();
        used.Next(params_.stages);
      }
      if (fill < fills) Refill(fill, &cursor);
    }
    if (kScored && full_) victim = WarpMin(victim);
    SyncThreads(0, kThreads);  // every row was used
    if constexpr (kClustered) {
      if (lane_ == 0) StoreToRank(&shared_->rank_victims[rank_], 0, victim);
      ClusterArrive();
      ClusterWait();
      if (rank_ != 0) return;
      for (int i = 0; i < Split(); ++i) {
        victim = min(victim, shared_->rank_victims[i]);
      }
    }
    Store(token, sums_ ? total.own * inverse : 0.0f, victim);
  }

  __device__ void Refill(int i, RingCursor* cursor) {
    if (lane_ < CopyLanes()) {
      Wait(&shared_->empty[cursor->stage], cursor->parity ^ 1);
      Fill(i, cursor);
    }
    __syncwarp();
  }

  // Copies stage i of the keys and then values into the ring.
  __device__ void Fill(int i, RingCursor* cursor) {
    const bool values = i >= stages_;
    const bool tails = kScored && values && (sums_ || full_);
    const int stage = values ? i - stages_ : i;
    const int slots =
        min(Tile::kStageSlots, count_ - stage * Tile::kStageSlots);
    const int pages = (slots + kPageSlots - 1) / kPageSlots;
    const int64_t run =
        values ? Tile::kPage.ValuesOffset() : Tile::kPage.KeysOffset();
    uint64_t* full = &shared_->full[cursor->stage];
    std::byte* to = ring_ + cursor->stage * Tile::kStageBytes;
    BeginCopies(
        full, slots * Tile::kRowBytes + (tails ? pages * Tile::kTailBytes : 0));
#pragma unroll
    for (int j = 0; j < Tile::kStagePages; ++j) {
      if (j >= pages) break;
      const std::byte* page = PageOf(stage * Tile::kStagePages + j);
      const int used = min(kPageSlots, slots - j * kPageSlots);
      Copy(to + j * Tile::kRunBytes, page + run, used * Tile::kRowBytes, full,
           lane_);
      if (tails) {
        Copy(to + Tile::kRowsBytes + j * Tile::kTailBytes,
             page + Tile::kPage.ScoresOffset(), Tile::kTailBytes, full, lane_);
      }
    }
    EndCopies(full);
    cursor->Next(params_.stages);
  }

  // Adds the probabilities of stage i of the values, in the ring at `stage`, to
  // the scores.  `victim` is the least so far among this lane's slots.
  __device__ void AddScores(int i, int stage, float inverse,
                            uint64_t* victim) const {
    const std::byte* tail =
        ring_ + stage * Tile::kStageBytes + Tile::kRowsBytes;
    const int first_recent = position_ - head_kv_.slots.recent + 1;
#pragma unroll
    for (int j = 0; j < Tile::kStagePages; ++j, tail += Tile::kTailBytes) {
      const int page = i * Tile::kStagePages + j;
      const int slot = page * kPageSlots + lane_;
      if (slot >= count_) continue;
      float score = 0;
      if (sums_) {
        score = reinterpret_cast<const float*>(tail)[lane_] +
                weights_[slot] * inverse;
        Scores(PageOf(page))[lane_] = score;
      }
      const int position = reinterpret_cast<const uint16_t*>(
          tail + kPageSlots * sizeof(float))[lane_];
      if (full_ && position >= head_kv_.slots.sinks &&
          position < first_recent) {
        *victim = min(*victim, VictimKey(score, position,
                                         first_page_ * kPageSlots + slot));
      }
    }
  }

  // The token's key and value, a chunk a lane.
  __device__ uint4 LoadToken() const {
    if (rank_ != 0 || lane_ >= 2 * Tile::kRowChunks) return {};
    const bool value = lane_ >= Tile::kRowChunks;
    return LoadChunk(value ? 2 : 1, lane_ - (value ? Tile::kRowChunks : 0));
  }

  // Writes the token over the victim or into the next free slot.
  __device__ void Store(uint4 token, float score, uint64_t victim) {
    if (full_ && victim == kNoVictim) __trap();  // a policy without a candidate
    const int slot = full_ ? VictimSlot(victim) : head_kv_.num_slots;
    std::byte* page = args_.pool.Page(table_[slot / kPageSlots]);
    const int at = slot % kPageSlots;
    if (lane_ < 2 * Tile::kRowChunks) {
      const bool value = lane_ >= Tile::kRowChunks;
      const int64_t run =
          value ? Tile::kPage.ValuesOffset() : Tile::kPage.KeysOffset();
      const int chunk = lane_ - (value ? Tile::kRowChunks : 0);
      reinterpret_cast<uint4*>(page + run)[at * Tile::kRowChunks + chunk] =
          token;
    }
    if (lane_ != 0) return;
    Scores(page)[at] = score;
    Positions(page)[at] = static_cast<uint16_t>(position_);
    SetEvicted(full_ ? VictimPosition(victim) : -1);
    if (!full_) {
      (LoadPointer(args_.heads + row_) + HeadIndex(head_))->num_slots =
          slot + 1;
    }
  }

  // ---- the consumers

  __device__ void Consume() {
    WaitForPrevious();
    float q[Tile::kLaneChunks][8];
    LoadQuery(q);
    float greatest = rank_ == 0 && warp_ == 0 ? OwnLogit(q) : -INFINITY;
    RingCursor cursor;
    for (int first = 0; first < count_; first += Tile::kStageSlots) {
      Wait(&shared_->full[cursor.stage], cursor.parity);
      const uint4* chunks = Chunks(cursor.stage);
      const int rows = count_ - first;
      greatest =
          fmaxf(greatest, rows >= Tile::kStageSlots
                              ? Keys<true>(chunks, rows, q, weights_ + first)
                              : Keys<false>(chunks, rows, q, weights_ + first));
      Free(&cursor);
    }
    ToWeights(greatest);
    const Total total = TotalOf();
    if constexpr (kClustered) TellTotal(total);
    uint32_t own_value = 0;
    if (rank_ == 0 && threadIdx.x < kHeadDim / 2) {
      own_value = Qkv(2)[threadIdx.x];
    }
    float sums[Tile::kLaneChunks][8] = {};
    for (int first = 0; first < count_; first += Tile::kStageSlots) {
      Wait(&shared_->full[cursor.stage], cursor.parity);
      const uint4* chunks = Chunks(cursor.stage);
      const int rows = count_ - first;
      if (rows >= Tile::kStageSlots) {
        Values<true>(chunks, rows, weights_ + first, sums);
      } else {
        Values<false>(chunks, rows, weights_ + first, sums);
      }
      Free(&cursor);
    }
    if constexpr (kClustered) ClusterWait();
    SyncThreads(0, kThreads);  // the ring is free for another use
    Finish(sums, total.own, WidenPair<T>(own_value), Inverse(total));
  }

  // q, scaled, in the channels of this lane.
  __device__ void LoadQuery(float (&q)[Tile::kLaneChunks][8]) const {
#pragma unroll
    for (int j = 0; j < Tile::kLaneChunks; ++j) {
      Widen<T>(LoadChunk(0, chunk_ + j * Tile::kRowLanes), q[j]);
#pragma unroll
      for (int i = 0; i < 8; ++i) q[j][i] *= params_.scale;
    }
  }

  // The token's logit with itself; a warp's work.
  __device__ float OwnLogit(const float (&q)[Tile::kLaneChunks][8]) {
    float dot[1] = {0};
#pragma unroll
    for (int j = 0; j < Tile::kLaneChunks; ++j) {
      dot[0] += Dot(q[j], LoadChunk(1, chunk_ + j * Tile::kRowLanes));
    }
    float logit;
    if constexpr (kHeadDim == 80) {
      logit = SumOfFive(dot[0]);
    } else {
      logit = SumEach<Tile::kRowLanes>(dot, lane_);
    }
    logit = __shfl_sync(kAllLanes, logit, 0);
    if (lane_ == 0) weights_[count_] = logit;
    return logit;
  }

  __device__ static float Dot(const float (&q)[8], uint4 chunk) {
    float x[8];
    Widen<T>(chunk, x);
    float even = q[0] * x[0], odd = q[1] * x[1];
#pragma unroll
    for (int i = 2; i < 8; i += 2) {
      even = fmaf(q[i], x[i], even);
      odd = fmaf(q[i + 1], x[i + 1], odd);
    }
    return even + odd;
  }

  // Where this lane's first chunk of its first row of a stage lies.
  __device__ const uint4* Chunks(int stage) const {
    return reinterpret_cast<const uint4*>(ring_ + stage * Tile::kStageBytes) +
           in_pass_ * Tile::kRowChunks + chunk_;
  }

  // This lane is done with the stage.
  __device__ void Free(RingCursor* cursor) {
    Arrive(&shared_->empty[cursor->stage]);
    cursor->Next(params_.stages);
  }

  // The logits of the stage's `rows` keys; returns the greatest this lane saw.
  // kWhole: there are kStageSlots or more.
  template <bool kWhole>
  __device__ float Keys(const uint4* chunks, int rows,
                        const float (&q)[Tile::kLaneChunks][8], float* logits) {
    float dots[Tile::kPasses];
#pragma unroll
    for (int pass = 0; pass < Tile::kPasses; ++pass) {
      dots[pass] = 0;
      // What lies behind the last row is old and is dropped below.
      if (!kWhole && pass * Tile::kPassRows >= rows) continue;
#pragma unroll
      for (int j = 0; j < Tile::kLaneChunks; ++j) {
        dots[pass] +=
            Dot(q[j], chunks[pass * Tile::kPassRows * Tile::kRowChunks +
                             j * Tile::kRowLanes]);
      }
    }
    float greatest = -INFINITY;
    if constexpr (kHeadDim == 80) {
#pragma unroll
      for (int pass = 0; pass < Tile::kPasses; ++pass) {
        const float logit = SumOfFive(dots[pass]);
        const int row = pass * Tile::kPassRows + in_pass_;
        if (chunk_ != 0 || spare_ || (!kWhole && row >= rows)) continue;
        logits[row] = logit;
        greatest = fmaxf(greatest, logit);
      }
    } else {
      constexpr int kSame = Tile::kRowLanes / Tile::kPasses;
      const float logit = SumEach<Tile::kRowLanes>(dots, lane_);
      const int row = chunk_ / kSame * Tile::kPassRows + in_pass_;
      if (kWhole || row < rows) {
        if (chunk_ % kSame == 0) logits[row] = logit;
        greatest = logit;
      }
    }
    return greatest;
  }

  // Turns the logits of all warps, the greatest of this lane's being
  // `greatest`, into weights.
  __device__ void ToWeights(float greatest) {
    greatest = WarpMax(greatest);
    if (lane_ == 0) shared_->greatest[warp_] = greatest;
    SyncThreads(1, kConsumers);
    greatest = Greatest();
    float sum = 0;
    for (int slot = threadIdx.x; slot < count_; slot += kConsumers) {
      const float weight = exp2f(weights_[slot] - greatest);
      weights_[slot] = weight;
      sum += weight;
    }
    sum = WarpReduce(sum, Plus());
    if (lane_ == 0) shared_->sums[warp_] = sum;
    Arrive(&shared_->weighed);
    SyncThreads(1, kConsumers);
  }

  __device__ float Greatest() const {
    float greatest = shared_->greatest[0];
#pragma unroll
    for (int i = 1; i < kWarps; ++i) {
      greatest = fmaxf(greatest, shared_->greatest[i]);
    }
    return greatest;
  }

  // Of this block's weights; minus infinity and 0 where it has no slots.
  struct Total {
    float greatest;  // logit, what the weights are relative to
    float own;       // the token's own weight
    float sum;
  };
  __device__ Total TotalOf() const {
    Total total = {.greatest = Greatest(), .own = 0, .sum = 0};
    if (rank_ == 0) total.own = exp2f(weights_[count_] - total.greatest);
    total.sum = total.own;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) total.sum += shared_->sums[i];
    return total;
  }

  __device__ void TellTotal(const Total& total) {
    ClusterWait();  // the other blocks run
    if (threadIdx.x < Split()) {
      StoreToRank(&shared_->rank_sums[rank_], threadIdx.x,
                  {total.greatest, total.sum});
    }
    ClusterArrive();
  }

  // The factor that turns a weight of this block into a probability.
  // REQUIRES: in a cluster, all blocks have told their totals.
  __device__ float Inverse(const Total& total) const {
    if constexpr (!kClustered) return 1.0f / total.sum;
    const float2* sums = shared_->rank_sums;
    float greatest = sums[0].x;  // finite: rank 0 has the token itself
    for (int i = 1; i < Split(); ++i) greatest = fmaxf(greatest, sums[i].x);
    float sum = 0;
    for (int i = 0; i < Split(); ++i) {
      sum += sums[i].y * exp2f(sums[i].x - greatest);
    }
    return exp2f(total.greatest - greatest) / sum;
  }

  // Adds the stage's weighted values.
  template <bool kWhole>
  __device__ void Values(const uint4* chunks, int rows, const float* weights,
                         float (&sums)[Tile::kLaneChunks][8]) const {
#pragma unroll
    for (int pass = 0; pass < Tile::kPasses; ++pass) {
      if (!kWhole && pass * Tile::kPassRows >= rows) break;
      const int row = pass * Tile::kPassRows + in_pass_;
      // Behind the last row: that row again, of no weight.
      const int beyond = kWhole ? 0 : max(row - (rows - 1), 0);
      const float weight = beyond > 0 ? 0.0f : weights[row - beyond];
#pragma unroll
      for (int j = 0; j < Tile::kLaneChunks; ++j) {
        float x[8];
        Widen<T>(chunks[(pass * Tile::kPassRows - beyond) * Tile::kRowChunks +
                        j * Tile::kRowLanes],
                 x);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[j][i] = fmaf(weight, x[i], sums[j][i]);
      }
    }
  }

  // Sums what the lanes have and writes the head's part of `out`.
  __device__ void Finish(const float (&sums)[Tile::kLaneChunks][8], float own,
                         float2 own_value, float inverse) {
    float* const lanes = reinterpret_cast<float*>(ring_);
    if (!spare_) {
#pragma unroll
      for (int j = 0; j < Tile::kLaneChunks; ++j) {
        float4* to = reinterpret_cast<float4*>(
            lanes + in_pass_ * kHeadDim + 8 * (chunk_ + j * Tile::kRowLanes));
        to[0] = {sums[j][0], sums[j][1], sums[j][2], sums[j][3]};
        to[1] = {sums[j][4], sums[j][5], sums[j][6], sums[j][7]};
      }
    }
    SyncThreads(1, kConsumers);
    const int thread = threadIdx.x;
    const bool mine = thread < kHeadDim / 2;  // a pair of channels
    float2 out = {own * own_value.x, own * own_value.y};
    if (mine) {
      const float2* pairs = reinterpret_cast<const float2*>(lanes) + thread;
#pragma unroll 8
      for (int i = 0; i < Tile::kPassRows; ++i) {
        const float2 pair = pairs[i * (kHeadDim / 2)];
        out.x += pair.x;
        out.y += pair.y;
      }
      out = {out.x * inverse, out.y * inverse};
    }
    if constexpr (kClustered) {
      if (mine) StoreToRank(&shared_->rank_outs[rank_][thread], 0, out);
      ClusterArrive();
      ClusterWait();
      if (rank_ != 0) return;
      out = {};
      for (int i = 0; mine && i < Split(); ++i) {
        out.x += shared_->rank_outs[i][thread].x;
        out.y += shared_->rank_outs[i][thread].y;
      }
    }
    if (mine) Out()[thread] = NarrowPair<T>(out);
  }

  // ---- where things are

  __device__ int Split() const {
    return kClustered ? 1 << params_.log2_split : 1;
  }

  __device__ int64_t HeadIndex(int head) const {
    return static_cast<int64_t>(args_.layer) * args_.num_heads + head;
  }
  // Through L2: the first-level cache may hold what an earlier launch read.
  __device__ static KvHead* LoadPointer(KvHead* const* p) {
    return reinterpret_cast<KvHead*>(
        __ldcg(reinterpret_cast<const unsigned long long*>(p)));
  }
  __device__ static KvHead Load(const KvHead* stored) {
    struct Raw {
      int4 first, second;
    };
    const int4* p = reinterpret_cast<const int4*>(stored);
    return std::bit_cast<KvHead>(Raw{__ldcg(p), __ldcg(p + 1)});
  }

  // Page `page` of this block's.
  __device__ std::byte* PageOf(int page) const {
    return args_.pool.Page(table_[first_page_ + page]);
  }
  __device__ static float* Scores(std::byte* page) {
    return reinterpret_cast<float*>(page + Tile::kPage.ScoresOffset());
  }
  __device__ static uint16_t* Positions(std::byte* page) {
    return reinterpret_cast<uint16_t*>(page + Tile::kPage.PositionsOffset());
  }

  // q, k or v of the item, as pairs and in chunks.
  __device__ const uint32_t* Qkv(int which) const {
    return reinterpret_cast<const uint32_t*>(
        static_cast<const T*>(args_.qkv) + row_ * args_.qkv_stride +
        (which * args_.num_heads + head_) * kHeadDim);
  }
  __device__ uint4 LoadChunk(int which, int chunk) const {
    return reinterpret_cast<const uint4*>(Qkv(which))[chunk];
  }
  __device__ uint32_t* Out() const {
    return reinterpret_cast<uint32_t*>(static_cast<T*>(args_.out) +
                                       row_ * args_.out_stride +
                                       head_ * kHeadDim);
  }
  __device__ void SetEvicted(int32_t position) const {
    if (args_.evicted == nullptr) return;
    args_.evicted[static_cast<int64_t>(row_) * args_.num_heads + head_] =
        position;
  }

  const Params& params_;
  const DecodeAttentionArgs& args_;
  Shared* shared_;
  std::byte* ring_;
  uint32_t* table_;  // the head's pages
  float* weights_;   // [count_], and in rank 0 the token's own logit behind it
  int row_, head_, rank_;
  int32_t position_;
  KvHead head_kv_;  // as this launch found it
  bool full_;       // a slot must be given up
  bool sums_;       // scores are kept
  int first_page_;  // this block's slots: count_ from there on
  int count_;
  int stages_;  // that hold them

  const int warp_ = threadIdx.x / 32;
  const int lane_ = threadIdx.x % 32;
  // This lane's row of a pass and its first chunk in it.  Lanes to spare do
  // what the last row's lanes do, and it is dropped.
  const bool spare_ = lane_ >= Tile::kWarpRows * Tile::kRowLanes;
  const int in_pass_ = warp_ * Tile::kWarpRows +
                       (spare_ ? Tile::kWarpRows - 1 : lane_ / Tile::kRowLanes);
  const int chunk_ = lane_ % Tile::kRowLanes;
};

template <typename T, int kHeadDim, int kWarps, bool kScored, bool kClustered>
__global__ void __launch_bounds__((kWarps + 1) * 32, kBlocksOfSm)
    DecodeAttentionKernel(const __grid_constant__ Params params) {
  BlockOf<T, kHeadDim, kWarps, kScored, kClustered>(params).Run();
}

__global__ void StoredPositionsKernel(const KvHead* heads, const KvPool pool,
                                      int stride, uint16_t* out) {
  const KvHead& head = heads[blockIdx.x];
  out += static_cast<int64_t>(blockIdx.x) * stride;
  for (int slot = threadIdx.x; slot < head.num_slots; slot += blockDim.x) {
    out[slot] = reinterpret_cast<const uint16_t*>(
        pool.PageOf(head, slot) +
        pool.Layout(head).PositionsOffset())[slot % kPageSlots];
  }
}

// Blocks along y share the pages of one head.
__global__ void CopyHeadsKernel(const KvHead* from, KvHead* to,
                                const KvPool pool) {
  const KvHead& source = from[blockIdx.x];
  const int32_t num_slots = source.num_slots;
  const int vectors =
      static_cast<int>(pool.Layout(source).PageBytes() / sizeof(uint4));
  for (int32_t slot = blockIdx.y * kPageSlots; slot < num_slots;
       slot += gridDim.y * kPageSlots) {
    const auto* in = reinterpret_cast<const uint4*>(pool.PageOf(source, slot));
    auto* out = reinterpret_cast<uint4*>(pool.PageOf(to[blockIdx.x], slot));
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) out[i] = in[i];
  }
  if (blockIdx.y == 0 && threadIdx.x == 0) to[blockIdx.x].num_slots = num_slots;
}

// ---- the launch -------------------------------------------------------------

// Of the current device.
struct Device {
  int major = 0, sms = 0;
  int shared_of_sm = 0, shared_of_block = 0, reserved = 0;  // bytes
};

Device CurrentDevice() {
  Device device;
  int id = 0;
  cudaGetDevice(&id);
  const auto get = [id](cudaDeviceAttr attribute, int* value) {
    cudaDeviceGetAttribute(value, attribute, id);
  };
  get(cudaDevAttrComputeCapabilityMajor, &device.major);
  get(cudaDevAttrMultiProcessorCount, &device.sms);
  get(cudaDevAttrMaxSharedMemoryPerMultiprocessor, &device.shared_of_sm);
  get(cudaDevAttrMaxSharedMemoryPerBlockOptin, &device.shared_of_block);
  get(cudaDevAttrReservedSharedMemoryPerBlock, &device.reserved);
  return device;
}

// Of shared memory, what a block takes beside the ring, if it has up to `pages`
// of a head of up to `slots` slots.
template <class Block>
int BytesBesideRing(int slots, int pages) {
  return sizeof(typename Block::Shared) +
         (slots / kPageSlots + 1) * sizeof(uint32_t) +
         (pages * kPageSlots + 1) * sizeof(float);
}

template <typename T, int kHeadDim, int kWarps, bool kScored, bool kClustered>
cudaError_t LaunchFor(const DecodeAttentionArgs& args,
                      const DecodeAttentionShape& shape, cudaStream_t stream) {
  using Block = BlockOf<T, kHeadDim, kWarps, kScored, kClustered>;
  using Tile = typename Block::Tile;
  const auto kernel =
      DecodeAttentionKernel<T, kHeadDim, kWarps, kScored, kClustered>;
  const Device device = CurrentDevice();
  if (kClustered && device.major < 9) return cudaErrorInvalidValue;

  const int pages = CeilDiv(CeilDiv(args.max_slots, kPageSlots), shape.split);
  const int rest = BytesBesideRing<Block>(args.max_slots, pages);
  const int fit = (device.shared_of_sm / kBlocksOfSm - device.reserved - rest) /
                  Tile::kStageBytes;
  const int useful = 2 * static_cast<int>(CeilDiv(pages, Tile::kStagePages));
  const int stages =
      std::clamp(shape.stages > 0 ? shape.stages : std::min(fit, useful),
                 kFewestStages, kMaxStages);
  const int bytes = rest + stages * Tile::kStageBytes;
  if (bytes > device.shared_of_block) return cudaErrorInvalidValue;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
      cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  const Params params = {
      .args = args,
      .scale = static_cast<float>(1.4426950408889634 / std::sqrt(kHeadDim)),
      .stages = stages,
      .log2_split = std::countr_zero(static_cast<unsigned>(shape.split))};
  return Launch(kernel,
                {.grid = dim3(args.num_heads * shape.split, args.rows),
                 .threads = Block::kThreads,
                 .shared_bytes = bytes,
                 .cluster = shape.split},
                stream, params);
}

template <typename T, int kHeadDim, bool kScored>
cudaError_t LaunchAs(const DecodeAttentionArgs& args,
                     const DecodeAttentionShape& shape, cudaStream_t stream) {
  return shape.split > 1
             ? LaunchFor<T, kHeadDim, 4, kScored, true>(args, shape, stream)
             : LaunchFor<T, kHeadDim, 8, kScored, false>(args, shape, stream);
}

template <typename T, int kHeadDim>
cudaError_t LaunchDim(const DecodeAttentionArgs& args,
                      const DecodeAttentionShape& shape, cudaStream_t stream) {
  return args.scored ? LaunchAs<T, kHeadDim, true>(args, shape, stream)
                     : LaunchAs<T, kHeadDim, false>(args, shape, stream);
}

template <int kHeadDim>
int MostSlotsOf() {
  using Block = BlockOf<__half, kHeadDim, 8, true, false>;
  const int room = CurrentDevice().shared_of_block -
                   kFewestStages * Block::Tile::kStageBytes;
  int pages = 0;
  while (BytesBesideRing<Block>((pages + 1) * kPageSlots, pages + 1) <= room) {
    ++pages;
  }
  return pages * kPageSlots;
}

}  // namespace

int MostSlots(int head_dim) {
  return DispatchHeadDim(
      head_dim, 0, [&]<int kHeadDim>() { return MostSlotsOf<kHeadDim>(); });
}

DecodeAttentionShape ChooseDecodeAttentionShape(
    const DecodeAttentionArgs& args) {
  const Device device = CurrentDevice();
  const int items = args.rows * args.num_heads;
  const int64_t pages = CeilDiv(args.max_slots, kPageSlots);
  DecodeAttentionShape shape;
  // A split costs an exchange and a barrier: it pays only where blocks are so
  // few that most of the machine would be idle.
  while (device.major >= 9 && shape.split < kMaxSplit &&
         items * shape.split <= device.sms && pages >= 4 * shape.split) {
    shape.split *= 2;
  }
  return shape;
}

cudaError_t DecodeAttentionAs(const DecodeAttentionArgs& args,
                              const DecodeAttentionShape& shape,
                              cudaStream_t stream) {
  if (args.rows == 0 || args.num_heads == 0) return cudaSuccess;
  return DispatchFormat(args.dtype, [&](auto format) {
    return DispatchHeadDim(
        args.pool.head_dim, cudaErrorInvalidValue, [&]<int kHeadDim>() {
          return LaunchDim<decltype(format), kHeadDim>(args, shape, stream);
        });
  });
}

cudaError_t DecodeAttention(const DecodeAttentionArgs& args,
                            cudaStream_t stream) {
  return DecodeAttentionAs(args, ChooseDecodeAttentionShape(args), stream);
}

cudaError_t StoredPositions(const KvHead* heads, int count, const KvPool& pool,
                            int stride, uint16_t* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return Launch(StoredPositionsKernel,
                {.grid = dim3(count), .threads = 256, .overlaps = false},
                stream, heads, pool, stride, out);
}

cudaError_t CopyHeads(const KvHead* from, KvHead* to, int count,
                      const KvPool& pool, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  constexpr int kBlocksOfHead = 4;
  return Launch(
      CopyHeadsKernel,
      {.grid = dim3(count, kBlocksOfHead), .threads = 256, .overlaps = false},
      stream, from, to, pool);
}

}  // namespace h2o::cuda
