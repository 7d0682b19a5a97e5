// y = x W^T of few rows, or with weights of codes: a stream of weights.
//
// Such a product takes as long as reading its weights.  A library's kernel adds
// its start and its end to that, at every product.  Here a block starts while
// the kernel in front still runs and fills its ring with weights, which no
// kernel writes.  Only then it waits for x.  It lets the next kernel start
// before its own wait; AllowNext (ptx.cuh) says what that means for others.
//
//   slice  64 inputs of a matrix: rows of 128 bytes, the widest swizzle
//   piece  of W, 128 outputs and one or two slices: what a stage of the ring
//          holds, beside the same inputs of x
//          of codes, always two slices, as coded_weights.cuh lays them
//   tile   all pieces of 128 outputs
//   share  the run of pieces that one thread block multiplies
//
// Shares are equal, in the order of tiles, then inputs ("stream-K",
// https://arxiv.org/abs/2301.03598), so several may meet in a tile.  The share
// with the tile's first inputs adds up all of them, in order, and writes y.  If
// there are so few tiles that two thread blocks can work on each, the two are a
// cluster, and each writes half.  The order of a sum depends on the shape of W,
// the device, and the shape of the kernel: of plain weights whether there are
// more than 64 rows, of codes whether there are more than 8 (int4), 16, 32, 48,
// 64, 96, 128 and 192.
//
// Plain weights are multiplied from shared memory.  Codes go through registers:
// a warp group widens fragments to 16 bits, and the tensor cores multiply them;
// of int4 and few rows it takes the codes as they are, and x is rounded to
// whole numbers before (whole_rows.h). Its warps wait for each other's steps
// more than they compute; so with few rows two or three teams, of two warp
// groups each, take turns with the pieces, and the sums of all are added to
// those of the first.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/coded_weights.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/vectors.cuh"

namespace h2o::cuda {
namespace {

constexpr int kOutputs = 128;  // of a tile: 64 a warp group
constexpr int kGroupOutputs = 64, kGroups = kOutputs / kGroupOutputs;
constexpr int kGroupThreads = 128;
constexpr int kTeam = kGroups * kGroupThreads;  // threads with a tile's sums
constexpr int kSlice = 64;                      // inputs
constexpr int kSliceBytes = kOutputs * kSlice * 2;
constexpr int kSwizzleRows = 8, kSwizzleBytes = 128 * kSwizzleRows;
constexpr int kSharedBytes = 227 << 10;
// Of a share: fewer are not worth a partial.
constexpr int kFewestPieces = 6;

// What differs with the number of rows.
template <int kRowsOfX, bool kInPairs, WeightFormat kWeights>
struct Shape {
  static constexpr int kRows = kRowsOfX;
  static constexpr bool kPaired = kInPairs;
  static constexpr WeightFormat kFormat = kWeights;
  static constexpr bool kCoded = !IsPlain(kFormat);
  static constexpr bool kScaledInGroups = kFormat == WeightFormat::kInt4;
  // Of few rows x is whole numbers, in two terms, and sums are scaled.
  static constexpr bool kWhole = kScaledInGroups && kRows <= kMostWholeRows;
  // Of a piece: two lie side by side in memory.
  static constexpr int kSlices = kCoded || kRows <= 64 ? 2 : 1;
  static constexpr int kInputs = kSlices * kSlice;
  static constexpr int kFragments = kRows / 8;  // of a consumer, each 4 sums
  static constexpr int kTeams = !kCoded || kRows > 64 ? 1 : kRows > 32 ? 2 : 3;
  static_assert(!kWhole || kTeams == 3);
  static constexpr int kConsumers = kTeams * kTeam;
  // With many sums the producer leaves its registers to the consumers, which
  // takes a whole warp group.
  static constexpr bool kMovesRegisters = kRows > 128;
  static constexpr int kThreads =
      kConsumers + (kMovesRegisters ? kGroupThreads : kWarp);
  static constexpr int kWeightBytes = kOutputs * kInputs * BitsOf(kFormat) / 8;
  // Room for two groups.
  static constexpr int kScaleBytes =
      kScaledInGroups ? 2 * kOutputs * int{sizeof(GroupScale)} : 0;
  static constexpr int kRowBytes = kSlices * kRows * kSlice * 2;
  // Beside a stage: its barriers, and of whole numbers two groups' sums.
  static constexpr int kSumBytes =
      kWhole ? 2 * kRows * int{sizeof(WholeGroup)} : 0;
  static constexpr int kBesideStage = kSumBytes + 16;
  static constexpr int kStageBytes = kWeightBytes + kScaleBytes + kRowBytes;
  static constexpr int kTeamBytes =  // what other teams hand to the first
      (kTeams - 1) * kFragments * kTeam * 16;
  static constexpr int kBesideBytes =  // what a pair exchanges
      kPaired ? kFragments * kGroupThreads * 16 : 0;
  // So that blocks of RoundToWhole, which comes between, can start.
  static constexpr int kLeftBytes = kWhole ? 6 << 10 : 0;
  // As many for each team: a stage is always the same team's.
  static constexpr int kStages =
      (kSharedBytes - kLeftBytes - kSwizzleBytes - kTeamBytes - kBesideBytes) /
      (kStageBytes + kBesideStage) / kTeams * kTeams;
  static constexpr int kAllBytes = kSwizzleBytes + kTeamBytes + kBesideBytes +
                                   kStages * (kStageBytes + kBesideStage);
};

// Of a consumer: 64 outputs a warp group, all rows.
template <class S>
using Sums = float[S::kFragments][4];

__device__ __forceinline__ float4 ToFloat4(const float (&v)[4]) {
  return make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void FromFloat4(float4 four, float (&v)[4]) {
  v[0] = four.x;
  v[1] = four.y;
  v[2] = four.z;
  v[3] = four.w;
}

struct Work {
  const std::byte* codes;          // of coded weights
  const float* output_scales;      // [outputs], of fp8 and int8
  const GroupScale* group_scales;  // of int4
  const WholeGroup* whole_groups;  // of int4 and few rows: of x
  int groups_of_piece;             // of int4
  const void* bias;
  void* y;
  int64_t y_stride;
  float4* partials;  // [shares][fragments][kTeam]
  uint32_t* ready;   // [shares]: whether its partial is there
  int rows, outputs;
  int pieces;          // of W
  int pieces_of_tile;  // along its inputs
  bool relu;

  // Share s of W is pieces [First(s), First(s + 1)).
  __device__ int First(int s) const {
    return static_cast<int>(int64_t{pieces} * s / gridDim.x);
  }
};
// A block that adds up partials waits for the shares behind its own.  So shares
// are numbered against the order of blocks: those blocks started before it.
// Pairs start together.
template <class S>
__device__ __forceinline__ int MyShare() {
  return S::kPaired ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
}

// ---- shared memory ----------------------------------------------------------

template <class S>
struct Ring {
  unsigned char* stages;
  unsigned char* sums;  // [kStages][kSumBytes]
  float4* teams;        // [kTeams - 1][kFragments][kTeam]
  float4* beside;       // [kFragments][kGroupThreads], of pairs
  uint64_t* full;       // [kStages]
  uint64_t* empty;      // [kStages]

  __device__ Ring() {
    unsigned char* const shared = DynamicShared();
    stages = shared + (-SharedAddress(shared) & (kSwizzleBytes - 1));
    sums = stages + S::kStages * S::kStageBytes;
    unsigned char* const behind = sums + S::kStages * S::kSumBytes;
    teams = reinterpret_cast<float4*>(behind);
    beside = reinterpret_cast<float4*>(behind + S::kTeamBytes);
    full =
        reinterpret_cast<uint64_t*>(behind + S::kTeamBytes + S::kBesideBytes);
    empty = full + S::kStages;
  }
  __device__ unsigned char* Weights(int stage, int slice = 0) const {
    return stages + stage * S::kStageBytes + slice * kSliceBytes;
  }
  __device__ unsigned char* Scales(int stage) const {
    return Weights(stage) + S::kWeightBytes;
  }
  __device__ unsigned char* Rows(int stage, int slice) const {
    return Scales(stage) + S::kScaleBytes + slice * S::kRows * kSlice * 2;
  }
};

// ---- the producer -----------------------------------------------------------

// Of x, in a piece.
template <class S>
__device__ __forceinline__ uint32_t BytesOfSums(const Work& work) {
  return S::kWhole ? work.groups_of_piece * S::kRows * sizeof(WholeGroup) : 0;
}

// Codes and scales of a piece; announces the rows of x as well.
template <class S>
__device__ __forceinline__ void CopyCodes(const Ring<S>& ring, const Work& work,
                                          int piece, int stage,
                                          uint64_t policy) {
  uint64_t* const full = &ring.full[stage];
  const int scales = S::kScaledInGroups ? work.groups_of_piece * kOutputs : 0;
  const uint32_t scale_bytes = scales * sizeof(GroupScale);
  ArriveExpect(full, S::kWeightBytes + scale_bytes + S::kRowBytes +
                         BytesOfSums<S>(work));
  BulkCopy(ring.Weights(stage), work.codes + int64_t{piece} * S::kWeightBytes,
           S::kWeightBytes, full, policy);
  if constexpr (S::kScaledInGroups) {
    BulkCopy(ring.Scales(stage), work.group_scales + int64_t{piece} * scales,
             scale_bytes, full, policy);
  }
}

template <class S>
__device__ void Produce(const Ring<S>& ring, const Work& work,
                        const CUtensorMap& weights, const CUtensorMap& x) {
  struct Place {
    int tile, piece;  // of the tile
  };
  const int begin = work.First(MyShare<S>());
  const int count = work.First(MyShare<S>() + 1) - begin;
  const Place first = {begin / work.pieces_of_tile,
                       begin % work.pieces_of_tile};
  const auto next = [&](Place* at) {
    if (++at->piece == work.pieces_of_tile) *at = {at->tile + 1, 0};
  };
  const uint64_t read_once = EvictFirst();
  const auto copy_weights = [&](Place at, int stage) {
    if constexpr (S::kCoded) {
      CopyCodes<S>(ring, work, at.tile * work.pieces_of_tile + at.piece, stage,
                   read_once);
    } else {
      ArriveExpect(&ring.full[stage], S::kStageBytes);
#pragma unroll
      for (int slice = 0; slice < S::kSlices; ++slice) {
        CopyBox(ring.Weights(stage, slice), &weights,
                at.piece * S::kInputs + slice * kSlice, at.tile * kOutputs,
                &ring.full[stage], read_once);
      }
    }
  };
  const auto copy_x = [&](Place at, int stage) {
    if constexpr (S::kWhole) {
      // Both terms of all rows are one box.
      CopyBox(ring.Rows(stage, 0), &x, at.piece * S::kInputs, 0,
              &ring.full[stage]);
      BulkCopy(ring.sums + stage * S::kSumBytes,
               work.whole_groups +
                   at.piece * work.groups_of_piece * int64_t{S::kRows},
               BytesOfSums<S>(work), &ring.full[stage]);
    } else {
#pragma unroll
      for (int slice = 0; slice < S::kSlices; ++slice) {
        CopyBox(ring.Rows(stage, slice), &x,
                at.piece * S::kInputs + slice * kSlice, 0, &ring.full[stage]);
      }
    }
  };

  const int early = min(count, S::kStages);
  Place at = first;
  for (int i = 0; i < early; ++i, next(&at)) copy_weights(at, i);
  WaitForPrevious();
  at = first;
  for (int i = 0; i < early; ++i, next(&at)) copy_x(at, i);
  RingCursor cursor;
  for (int i = early; i < count; ++i, next(&at)) {
    Wait(&ring.empty[cursor.stage], cursor.parity);
    copy_weights(at, cursor.stage);
    copy_x(at, cursor.stage);
    cursor.Next(S::kStages);
  }
}

// ---- the consumers ----------------------------------------------------------

template <class T, class S>
__device__ void MultiplyPieces(const Ring<S>& ring, int pieces,
                               RingCursor* cursor, Sums<S>& c) {
  const int rows_above = threadIdx.x / kGroupThreads * kGroupOutputs;
  const auto release = [&](int stage) {
    if (Lane() == 0) Arrive(&ring.empty[stage]);
  };
  int before = -1;
  for (int i = 0; i < pieces; ++i) {
    Wait(&ring.full[cursor->stage], cursor->parity);
    FenceProducts();
#pragma unroll
    for (int slice = 0; slice < S::kSlices; ++slice) {
      const uint64_t w = OperandAt(
          SharedAddress(ring.Weights(cursor->stage, slice)) + 128 * rows_above,
          Swizzle::k128Bytes, kSwizzleBytes);
      const uint64_t x =
          OperandAt(SharedAddress(ring.Rows(cursor->stage, slice)),
                    Swizzle::k128Bytes, kSwizzleBytes);
#pragma unroll
      for (int step = 0; step < kSlice / 16; ++step) {
        constexpr int kStep = 16 * 2 / 16;  // an address counts 16 bytes
        GroupMultiply<T, S::kRows>(c, w + step * kStep, x + step * kStep,
                                   i + slice + step > 0);
      }
    }
    CommitProducts();
    WaitForProducts<1>();
    if (before >= 0) release(before);
    before = cursor->stage;
    cursor->Next(S::kStages);
  }
  WaitForProducts<0>();
  Settle(c);
  release(before);
}

// A thread's place in its team.
__device__ __forceinline__ int InTeam() { return threadIdx.x % kTeam; }

// Half a piece of codes: 64 inputs of this warp group's outputs.
template <class T, class S>
struct CodedHalf {
  using Tile = CodedTile<S::kFormat>;
  static constexpr int kSteps = kTileSteps / 2;
  static constexpr int kVectors = Tile::kVectors / 2;
  uint32_t a[kSteps][4];  // fragments

  // codes: where this thread's of the half are in shared memory; scales: of its
  // outputs g and g + 8.
  __device__ __forceinline__ void Widen(uint32_t codes,
                                        const PairScale (&scales)[2]) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint4 vector = LoadShared16(codes + v * kGroupThreads * 16);
#pragma unroll
      for (int s = 0; s < Tile::kStepsOfVector; ++s) {
        WidenStep<T, S::kFormat>(vector, s, scales,
                                 a[v * Tile::kStepsOfVector + s]);
      }
    }
  }
  // Adds to c.
  __device__ __forceinline__ void Multiply(const SplitOperand& x,
                                           uint32_t bytes, Sums<S>& c) const {
    FenceProducts();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      GroupMultiplyHeld<T, S::kRows>(c, a[step], x.At(bytes + 32 * step), true);
    }
    CommitProducts();
  }
};

// Where a thread finds a stage's codes, from its beginning.
template <class S>
struct CodedPlace {
  using Tile = CodedTile<S::kFormat>;
  uint32_t codes, scales;

  __device__ CodedPlace() {
    const int group = InTeam() / kGroupThreads;
    const int thread = threadIdx.x % kGroupThreads;
    codes = Held((group * Tile::kVectors * kGroupThreads + thread) * 16);
    // Of the outputs g and g + 8 of this thread's fragments.
    const int output = group * kGroupOutputs + thread / kWarp * 16 + Lane() / 4;
    scales = Held(S::kWeightBytes + output * int{sizeof(GroupScale)});
  }
};

template <class S>
__device__ __forceinline__ void Clear(Sums<S>& c) {
#pragma unroll
  for (int j = 0; j < S::kFragments; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) c[j][e] = 0;
  }
}

// The first of `pieces` that is this team's, to which the cursor goes.
template <class S, int kTeamOfThis>
__device__ __forceinline__ int SkipToOwn(int pieces, RingCursor* cursor) {
  const int of_stage = cursor->stage % S::kTeams;
  const int skipped =
      min((S::kTeams + kTeamOfThis - of_stage) % S::kTeams, pieces);
  cursor->Skip(skipped, S::kStages);
  return skipped;
}

// The same with weights of codes: this team's pieces of them, half a piece at a
// time.
template <class T, class S, int kTeamOfThis>
__device__ void MultiplyCodedPieces(const Ring<S>& ring, const Work& work,
                                    int pieces, RingCursor* cursor,
                                    Sums<S>& c) {
  using Half = CodedHalf<T, S>;
  const CodedPlace<S> place;
  const uint32_t stages = HeldSharedAddress(ring.stages);
  const uint32_t full = HeldSharedAddress(ring.full);
  const uint32_t empty = full + S::kStages * sizeof(uint64_t);
  const uint32_t next_group =
      (work.groups_of_piece - 1) * kOutputs * sizeof(GroupScale);
  const auto release = [&](int stage) {
    if (Lane() == 0) Arrive(empty + stage * sizeof(uint64_t));
  };
  Half halves[2];
  int before = -1;  // the stage that products in flight may read
  Clear<S>(c);
  int piece = SkipToOwn<S, kTeamOfThis>(pieces, cursor);
  for (; piece < pieces; piece += S::kTeams) {
    const int stage = cursor->stage;
    const uint32_t at = stages + stage * S::kStageBytes;
    const SplitOperand x(at + S::kWeightBytes + S::kScaleBytes,
                         Swizzle::k128Bytes, kSwizzleBytes);
    Wait(full + stage * sizeof(uint64_t), cursor->parity);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      PairScale scales[2] = {};
      if constexpr (S::kScaledInGroups) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const uint32_t of_group = at + place.scales + half * next_group +
                                    8 * r * int{sizeof(GroupScale)};
          const uint32_t scale = LoadShared2(of_group);
          scales[r] = ToPairScale<T>(scale, LoadShared2(of_group + 2));
        }
      }
      halves[half].Widen(
          at + place.codes + half * Half::kVectors * kGroupThreads * 16,
          scales);
      const uint32_t x_bytes = half * S::kRows * kSlice * 2;
      halves[half].Multiply(x, x_bytes, c);
      // Three teams have no registers for two halves, and need not overlap
      // them: while one waits, the others widen.
      if constexpr (S::kTeams > 2) {
        WaitForProducts<0>();
      } else {
        WaitForProducts<1>();  // of the half before
        if (half == 0 && before >= 0) release(before);
      }
    }
    if constexpr (S::kTeams > 2) release(stage);
    before = stage;
    cursor->Skip(min(S::kTeams, pieces - piece), S::kStages);
  }
  if constexpr (S::kTeams <= 2) {
    WaitForProducts<0>();
    if (before >= 0) release(before);
  }
  Settle(c);
}

// A piece of int4 codes and whole numbers of x, in a thread's registers.
template <class S>
struct WholePiece {
  using Tile = CodedTile<S::kFormat>;
  static constexpr int kSteps = kTileSteps / 2;  // of 32 inputs
  uint32_t a[kSteps][4];

  // The codes of two steps of 16 inputs make one of 32: a word's even digits
  // are of output g, its odd ones of g + 8.
  __device__ __forceinline__ void Take(uint32_t codes) {
#pragma unroll
    for (int v = 0; v < Tile::kVectors; ++v) {
      const uint4 vector = LoadShared16(codes + v * kGroupThreads * 16);
      const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        uint32_t* const to = &a[2 * v + w / 2][w % 2 * 2];
        to[0] = words[w] & 0x0f0f0f0f;
        to[1] = words[w] >> 4 & 0x0f0f0f0f;
      }
    }
  }

  // Adds the product of the kOfGroup steps from kFirst on to c.  `scales`: of
  // this thread's outputs g and g + 8 in the group; `sums`: of its rows.
  template <int kFirst, int kOfGroup>
  __device__ __forceinline__ void AddGroup(const SplitOperand& x,
                                           uint32_t scales, uint32_t sums,
                                           Sums<S>& c) const {
    constexpr int kFragments = S::kFragments;
    int32_t terms[2 * kFragments][4];  // high, low
    FenceProducts();
#pragma unroll
    for (int step = 0; step < kOfGroup; ++step) {
      GroupMultiplyWhole<2 * S::kRows>(terms, a[kFirst + step],
                                       x.At(32 * (kFirst + step)), step > 0);
    }
    CommitProducts();
    uint32_t of_outputs[2];
    uint4 of_rows[kFragments];  // of rows 2t and 2t + 1: WholeGroup
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      of_outputs[r] = LoadShared4(scales + 8 * r * int{sizeof(GroupScale)});
    }
#pragma unroll
    for (int j = 0; j < kFragments; ++j) {
      of_rows[j] = LoadShared16(sums + 8 * j * int{sizeof(WholeGroup)});
    }
    WaitForProducts<0>();
    Settle(terms);
#pragma unroll
    for (int j = 0; j < kFragments; ++j) {
      const uint32_t sum[2] = {of_rows[j].x, of_rows[j].z};
      const uint32_t scale[2] = {of_rows[j].y, of_rows[j].w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int zero = static_cast<int>(of_outputs[e / 2] >> 16);
        const float of_output = __uint_as_float(of_outputs[e / 2] << 16);
        const int whole = terms[j][e] * 256 + terms[kFragments + j][e] -
                          zero * static_cast<int>(sum[e % 2]);
        c[j][e] = fmaf(of_output * __uint_as_float(scale[e % 2]),
                       static_cast<float>(whole), c[j][e]);
      }
    }
  }
};

// The same with whole numbers of x, and so many groups of inputs a piece.
template <class S, int kTeamOfThis, int kGroupsOfPiece>
__device__ void MultiplyWholePieces(const Ring<S>& ring, const Work& work,
                                    int pieces, RingCursor* cursor,
                                    Sums<S>& c) {
  const CodedPlace<S> place;
  const uint32_t stages = HeldSharedAddress(ring.stages);
  const uint32_t full = HeldSharedAddress(ring.full);
  const uint32_t empty = full + S::kStages * sizeof(uint64_t);
  const uint32_t sums =
      HeldSharedAddress(ring.sums + Lane() % 4 * 2 * sizeof(WholeGroup));
  Clear<S>(c);
  int piece = SkipToOwn<S, kTeamOfThis>(pieces, cursor);
  for (; piece < pieces; piece += S::kTeams) {
    const int stage = cursor->stage;
    const uint32_t at = stages + stage * S::kStageBytes;
    const uint32_t of_rows = sums + stage * S::kSumBytes;
    const SplitOperand x(at + S::kWeightBytes + S::kScaleBytes,
                         Swizzle::k128Bytes, kSwizzleBytes);
    WholePiece<S> whole;
    Wait(full + stage * sizeof(uint64_t), cursor->parity);
    whole.Take(at + place.codes);
    if constexpr (kGroupsOfPiece == 1) {
      whole.template AddGroup<0, 4>(x, at + place.scales, of_rows, c);
    } else {
      whole.template AddGroup<0, 2>(x, at + place.scales, of_rows, c);
      whole.template AddGroup<2, 2>(
          x, at + place.scales + kOutputs * int{sizeof(GroupScale)},
          of_rows + S::kSumBytes / 2, c);
    }
    if (Lane() == 0) Arrive(empty + stage * sizeof(uint64_t));
    cursor->Skip(min(S::kTeams, pieces - piece), S::kStages);
  }
}

// The first team takes the sums of the others, which go on meanwhile.  `again`:
// it has done so before.
template <class S, int kTeamOfThis>
__device__ __forceinline__ void JoinTeams(const Ring<S>& ring, bool again,
                                          Sums<S>& c) {
  if constexpr (S::kTeams > 1) {
    constexpr int kLeft = 2, kTaken = 3;  // barriers
    const auto place = [&](int team, int j) -> float4& {
      return ring.teams[((team - 1) * S::kFragments + j) * kTeam + InTeam()];
    };
    if constexpr (kTeamOfThis > 0) {
      if (again) SyncThreads(kTaken, S::kConsumers);
#pragma unroll
      for (int j = 0; j < S::kFragments; ++j) {
        place(kTeamOfThis, j) = ToFloat4(c[j]);
      }
      ArriveThreads(kLeft, S::kConsumers);
    } else {
      SyncThreads(kLeft, S::kConsumers);
#pragma unroll
      for (int team = 1; team < S::kTeams; ++team) {
#pragma unroll
        for (int j = 0; j < S::kFragments; ++j) {
          float more[4];
          FromFloat4(place(team, j), more);
#pragma unroll
          for (int e = 0; e < 4; ++e) c[j][e] += more[e];
        }
      }
      ArriveThreads(kTaken, S::kConsumers);
    }
  }
}

// c = W x of so many pieces, at least one, in the first team.  `again`: it is
// not the first call.
template <class T, class S, int kTeamOfThis>
__device__ __forceinline__ void Multiply(const Ring<S>& ring, const Work& work,
                                         int pieces, bool again,
                                         RingCursor* cursor, Sums<S>& c) {
  if constexpr (S::kWhole) {
    if (__any_sync(kAllLanes, work.groups_of_piece == 1)) {
      MultiplyWholePieces<S, kTeamOfThis, 1>(ring, work, pieces, cursor, c);
    } else {
      MultiplyWholePieces<S, kTeamOfThis, 2>(ring, work, pieces, cursor, c);
    }
    JoinTeams<S, kTeamOfThis>(ring, again, c);
  } else if constexpr (S::kCoded) {
    MultiplyCodedPieces<T, S, kTeamOfThis>(ring, work, pieces, cursor, c);
    JoinTeams<S, kTeamOfThis>(ring, again, c);
  } else {
    MultiplyPieces<T, S>(ring, pieces, cursor, c);
  }
}

// Waits until the partial of a share is there.
__device__ __forceinline__ void Await(uint32_t* ready) {
  while (LoadAcquireGpu(ready) == 0) {
  }
  *ready = 0;  // for the next product
}
__device__ __forceinline__ void SyncTeam() { SyncThreads(1, kTeam); }

template <class S>
__device__ void LeavePartial(const Work& work, const Sums<S>& c) {
  const int share = MyShare<S>();
  float4* const to = work.partials + int64_t{share} * S::kFragments * kTeam;
#pragma unroll
  for (int j = 0; j < S::kFragments; ++j) {
    __stcg(to + j * kTeam + threadIdx.x, ToFloat4(c[j]));
  }
  SyncTeam();
  if (threadIdx.x == 0) StoreReleaseGpu(&work.ready[share], 1);
}

// Calls take(j, sums) for each fragment of a share's partial.
template <class S, class Take>
__device__ __forceinline__ void ForEachOfPartial(const Work& work, int share,
                                                 Take&& take) {
  if (threadIdx.x == 0) Await(&work.ready[share]);
  SyncTeam();
  const float4* const from =
      work.partials + int64_t{share} * S::kFragments * kTeam;
#pragma unroll
  for (int j = 0; j < S::kFragments; ++j) {
    take(j, __ldcg(from + j * kTeam + threadIdx.x));
  }
}
__device__ __forceinline__ void Add(const float (&more)[4], float (&c)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) c[e] += more[e];
}
template <class S>
__device__ __forceinline__ void Add(const Sums<S>& more, Sums<S>& c) {
#pragma unroll
  for (int j = 0; j < S::kFragments; ++j) Add(more[j], c[j]);
}
template <class S>
__device__ void TakePartial(const Work& work, int share, Sums<S>& partial) {
  ForEachOfPartial<S>(
      work, share, [&](int j, float4 sums) { FromFloat4(sums, partial[j]); });
}
template <class S>
__device__ void AddPartial(const Work& work, int share, Sums<S>& c) {
  ForEachOfPartial<S>(work, share, [&](int j, float4 sums) {
    float more[4];
    FromFloat4(sums, more);
    Add(more, c[j]);
  });
}

// A lane holds outputs g and g + 8 of rows 2t and 2t + 1 (mma.cuh).  Transposed
// it holds outputs 2t, 2t + 1 and 2t + 8, 2t + 9 of row g; of two neighbours
// one then takes the first four outputs, one the last, so that a row gets 16
// outputs, a sector, at once.
template <class T, class S>
__device__ void WriteOutputs(const Work& work, int tile, const Sums<S>& c) {
  const int g = Lane() / 4, t = Lane() % 4;
  const int first = tile * kOutputs + 16 * (threadIdx.x / kWarp);
  const auto bias_of = [&](int output) {
    return work.bias != nullptr && output < work.outputs
               ? ToFloat(static_cast<const T*>(work.bias)[output])
               : 0.0f;
  };
  const float bias[2] = {bias_of(first + g), bias_of(first + g + 8)};
  constexpr bool kScaled = S::kCoded && !S::kScaledInGroups;
  const auto scale_of = [&](int output) {
    if constexpr (!kScaled) return 1.0f;
    return output < work.outputs ? work.output_scales[output] : 0.0f;
  };
  const float scale[2] = {scale_of(first + g), scale_of(first + g + 8)};
  const int output = first + 8 * (t % 2) + 4 * (t / 2);
  T* const to = static_cast<T*>(work.y) + output;
#pragma unroll
  for (int j = 0; j < S::kFragments; ++j) {
    uint32_t pairs[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float low = c[j][2 * half], high = c[j][2 * half + 1];
      if constexpr (kScaled) low *= scale[half], high *= scale[half];
      low += bias[half];
      high += bias[half];
      if (work.relu) low = fmaxf(low, 0.0f), high = fmaxf(high, 0.0f);
      pairs[half] = Transpose(Pack<T>(low, high));
    }
    const bool even = t % 2 == 0;
    const uint32_t kept = even ? pairs[0] : pairs[1];
    const uint32_t got =
        __shfl_xor_sync(kAllLanes, even ? pairs[1] : pairs[0], 1);
    const int row = 8 * j + g;
    const uint2 four = even ? make_uint2(kept, got) : make_uint2(got, kept);
    if (row < work.rows) {
      T* const at = to + row * work.y_stride;
      if (output + 4 <= work.outputs) {
        *reinterpret_cast<uint2*>(at) = four;
      } else {
        const auto numbers = __builtin_bit_cast(Vector<T, 4>, four);
        for (int i = 0; i < 4 && output + i < work.outputs; ++i) {
          at[i] = numbers.at[i];
        }
      }
    }
    __syncwarp();
  }
}

// One share of several: whole tiles, and parts of the first and of the last.
template <class T, class S, int kTeamOfThis>
__device__ void ConsumeShare(const Ring<S>& ring, const Work& work) {
  const int begin = work.First(MyShare<S>());
  const int end = work.First(MyShare<S>() + 1);
  RingCursor cursor;
  Sums<S> c;
  for (int piece = begin; piece < end;) {
    const int tile = piece / work.pieces_of_tile;
    const int tile_begin = tile * work.pieces_of_tile;
    const int tile_end = tile_begin + work.pieces_of_tile;
    const int until = min(end, tile_end);
    const int next = MyShare<S>() + 1;
    // Where the next share has all the rest of the tile, and less of it than
    // this share had to do before (by some pieces, since it may have started
    // later), its partial is there by now, and comes during the products.
    constexpr int kLead = 8;
    // Where there are registers for a second set of sums.
    constexpr bool kTakesSoon = S::kFragments == 1
                                    ? kTeamOfThis == 0
                                    : S::kTeams == 1 && S::kRows <= 96;
    const bool soon = kTakesSoon && piece == tile_begin && until < tile_end &&
                      work.First(next + 1) >= tile_end &&
                      tile_end - until + kLead <= piece - begin;
    float more[kTakesSoon ? S::kFragments : 1][4];
    if constexpr (kTakesSoon) {
      if (soon) TakePartial<S>(work, next, more);
    }
    Multiply<T, S, kTeamOfThis>(ring, work, until - piece, piece > begin,
                                &cursor, c);
    if (kTeamOfThis > 0) {
    } else if (piece > tile_begin) {
      LeavePartial<S>(work, c);
    } else {
      if constexpr (kTakesSoon) {
        if (soon) Add<S>(more, c);
      }
      if (!soon) {
        for (int s = next; work.First(s) < tile_end; ++s) {
          AddPartial<S>(work, s, c);
        }
      }
      WriteOutputs<T, S>(work, tile, c);
    }
    piece = until;
  }
}

// Multiplies half of a tile's inputs.  Each block of a pair sends its partner
// the sums of the outputs that the partner writes.
template <class T, class S, int kTeamOfThis>
__device__ void ConsumeHalf(const Ring<S>& ring, const Work& work) {
  const int half = blockIdx.x % 2, group = threadIdx.x / kGroupThreads;
  RingCursor cursor;
  Sums<S> c;
  const int pieces = work.First(blockIdx.x + 1) - work.First(blockIdx.x);
  Multiply<T, S, kTeamOfThis>(ring, work, pieces, false, &cursor, c);
  if (kTeamOfThis > 0) return;
  ClusterWait();  // for the other to have started
  float4* const mine = ring.beside + threadIdx.x % kGroupThreads;
  if (group != half) {
#pragma unroll
    for (int j = 0; j < S::kFragments; ++j) {
      StoreToRank(mine + j * kGroupThreads, 1 - half, ToFloat4(c[j]));
    }
  }
  ClusterArrive();
  ClusterWait();
  if (group == half) {
    Sums<S> more;
#pragma unroll
    for (int j = 0; j < S::kFragments; ++j) {
      FromFloat4(mine[j * kGroupThreads], more[j]);
    }
    Add<S>(more, c);
    WriteOutputs<T, S>(work, blockIdx.x / 2, c);
  }
}

template <class T, class S, int kTeamOfThis>
__device__ __forceinline__ void Consume(const Ring<S>& ring, const Work& work) {
  if constexpr (S::kPaired) {
    ConsumeHalf<T, S, kTeamOfThis>(ring, work);
  } else {
    ConsumeShare<T, S, kTeamOfThis>(ring, work);
  }
}

template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    StreamedProductKernel(const __grid_constant__ CUtensorMap weights,
                          const __grid_constant__ CUtensorMap x,
                          const __grid_constant__ Work work) {
  if constexpr (kHasGroupProducts) {
    const Ring<S> ring;
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < S::kStages; ++stage) {
        InitBarrier(&ring.full[stage], 1);
        InitBarrier(&ring.empty[stage], kTeam / kWarp);
      }
      FenceBarrierInit();
    }
    __syncthreads();
    if constexpr (S::kPaired) ClusterArrive();
    AllowNext();
    if (threadIdx.x >= S::kConsumers) {
      if constexpr (S::kMovesRegisters) GiveRegistersBack<24>();
      if (threadIdx.x / kWarp > S::kConsumers / kWarp) return;
      if (ElectOne()) Produce<S>(ring, work, weights, x);
      return;
    }
    if constexpr (S::kMovesRegisters) TakeRegisters<240>();
    WaitForPrevious();  // partials and y are also of kernels before
    // The compiler knows that a warp is of one team only if told.
    const auto of_team = [](int team) {
      return team < S::kTeams &&
             __any_sync(kAllLanes, threadIdx.x / kTeam == team);
    };
    if (of_team(1)) {
      Consume<T, S, 1>(ring, work);
    } else if (of_team(2)) {
      Consume<T, S, 2>(ring, work);
    } else {
      Consume<T, S, 0>(ring, work);
    }
  } else {
    __trap();  // StreamsProducts says no
  }
}

__global__ void TellGroupProducts(bool* has) { *has = kHasGroupProducts; }

// ---- the host's side --------------------------------------------------------

// Finds the driver's function without linking the driver.
PFN_cuTensorMapEncodeTiled_v12000 TensorMapEncoder() {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t status = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess) {
      found = nullptr;
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  return encode;
}

// A matrix [rows, columns], read by boxes of `box_rows` rows and kSlice
// columns; what is behind its rows and columns is read as zero.
bool Describe(const void* matrix, int64_t rows, int64_t columns, int64_t stride,
              int box_rows, DType dtype, CUtensorMap* map) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns),
                              static_cast<cuuint64_t>(rows)};
  const cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(2 * stride)};
  const cuuint32_t box[] = {kSlice, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  return TensorMapEncoder()(
             map,
             dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
             2, const_cast<void*>(matrix), sizes, row_bytes, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

RoundToWholeArgs ToRound(const StreamedProductArgs& a, int room) {
  RoundToWholeArgs round;
  round.x = a.x;
  round.x_stride = a.x_stride;
  round.dtype = a.dtype;
  round.rows = a.rows;
  round.room = room;
  round.inputs = a.inputs;
  round.group = a.group;
  round.out = a.workspace.whole;
  return round;
}

// The whole numbers of x, read by boxes of all rows, both terms, and a piece.
bool DescribeWhole(const RoundToWholeArgs& rows, CUtensorMap* map) {
  const auto all = static_cast<cuuint32_t>(2 * rows.room);
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(rows.inputs), all};
  const cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(rows.inputs)};
  const cuuint32_t box[] = {kTileInputs, all};
  const cuuint32_t steps[] = {1, 1};
  return TensorMapEncoder()(
             map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, rows.out.numbers, sizes,
             row_bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class T, class S>
cudaError_t LaunchFor(const StreamedProductArgs& a, int tiles,
                      cudaStream_t stream) {
  CUtensorMap weights = {}, x;
  if (!S::kCoded && !Describe(a.weight, a.outputs, a.inputs, a.weight_stride,
                              kOutputs, a.dtype, &weights)) {
    return cudaErrorInvalidValue;
  }
  Work work;
  if constexpr (S::kWhole) {
    const RoundToWholeArgs round = ToRound(a, S::kRows);
    const cudaError_t error = RoundToWhole(round, stream);
    if (error != cudaSuccess) return error;
    if (!DescribeWhole(round, &x)) return cudaErrorInvalidValue;
    work.whole_groups = round.out.groups;
  } else {
    // Inputs of codes end with a whole piece, which x may not.
    const int64_t columns = std::min(a.inputs, a.x_stride);
    if (!Describe(a.x, a.rows, columns, a.x_stride, S::kRows, a.dtype, &x)) {
      return cudaErrorInvalidValue;
    }
  }
  work.codes = static_cast<const std::byte*>(a.weight);
  work.output_scales = static_cast<const float*>(a.scales);
  work.group_scales = static_cast<const GroupScale*>(a.scales);
  work.groups_of_piece = a.group > 0 ? kTileInputs / a.group : 0;
  work.bias = a.bias;
  work.y = a.y;
  work.y_stride = a.y_stride;
  work.partials = reinterpret_cast<float4*>(a.workspace.partials);
  work.ready = a.workspace.ready;
  work.rows = a.rows;
  work.outputs = static_cast<int>(a.outputs);
  work.pieces_of_tile = static_cast<int>(CeilDiv(a.inputs, S::kInputs));
  work.pieces = tiles * work.pieces_of_tile;
  work.relu = a.relu;

  const int blocks = S::kPaired ? 2 * tiles
                                : std::clamp(work.pieces / kFewestPieces, 1,
                                             a.workspace.shares);
  return Launch(StreamedProductKernel<T, S>,
                {.grid = dim3(blocks),
                 .threads = S::kThreads,
                 .shared_bytes = S::kAllBytes,
                 .cluster = S::kPaired ? 2 : 1},
                stream, weights, x, work);
}

// Pairs leave multiprocessors idle, but need no partials.  They win where tiles
// are short, and fill three quarters of the device or more.
bool InPairs(int tiles, int64_t inputs, int shares) {
  constexpr int kFewestInputs = 1024, kMostInputs = 8192;
  return 2 * tiles <= shares && 4 * (2 * tiles) >= 3 * shares &&
         inputs >= kFewestInputs && inputs <= kMostInputs;
}

template <class T, WeightFormat kFormat, int kRows>
cudaError_t LaunchForRows(const StreamedProductArgs& args,
                          cudaStream_t stream) {
  const int tiles = static_cast<int>(CeilDiv(args.outputs, kOutputs));
  if constexpr (kRows <= 96) {
    if (InPairs(tiles, args.inputs, args.workspace.shares)) {
      return LaunchFor<T, Shape<kRows, true, kFormat>>(args, tiles, stream);
    }
  }
  return LaunchFor<T, Shape<kRows, false, kFormat>>(args, tiles, stream);
}

template <class T, WeightFormat kFormat>
cudaError_t LaunchForWeights(const StreamedProductArgs& args,
                             cudaStream_t stream) {
  static_assert(kMostStreamedPlainRows == 96 && kMostStreamedRows == 256);
  if constexpr (kFormat == WeightFormat::kInt4) {
    if (args.rows <= 8) return LaunchForRows<T, kFormat, 8>(args, stream);
  }
  if (args.rows <= 16) return LaunchForRows<T, kFormat, 16>(args, stream);
  if (args.rows <= 32) return LaunchForRows<T, kFormat, 32>(args, stream);
  if constexpr (!IsPlain(kFormat)) {
    if (args.rows <= 48) return LaunchForRows<T, kFormat, 48>(args, stream);
  }
  if (args.rows <= 64) return LaunchForRows<T, kFormat, 64>(args, stream);
  if constexpr (!IsPlain(kFormat)) {
    if (args.rows > 192) return LaunchForRows<T, kFormat, 256>(args, stream);
    if (args.rows > 128) return LaunchForRows<T, kFormat, 192>(args, stream);
    if (args.rows > 96) return LaunchForRows<T, kFormat, 128>(args, stream);
  }
  return LaunchForRows<T, kFormat, 96>(args, stream);
}

// Plain weights have the format of x.
template <class T>
cudaError_t LaunchForFormat(const StreamedProductArgs& args,
                            cudaStream_t stream) {
  switch (args.format) {
    case WeightFormat::kFp8:
      return LaunchForWeights<T, WeightFormat::kFp8>(args, stream);
    case WeightFormat::kInt8:
      return LaunchForWeights<T, WeightFormat::kInt8>(args, stream);
    case WeightFormat::kInt4:
      return LaunchForWeights<T, WeightFormat::kInt4>(args, stream);
    default:
      if (args.format != FormatOf(args.dtype)) return cudaErrorInvalidValue;
      return LaunchForWeights<T, WeightFormat::kBFloat16>(args, stream);
  }
}

}  // namespace

int64_t StreamedProductWorkspace::PartialBytes(int shares) {
  return int64_t{shares} * kMostStreamedRows * kOutputs *
         int64_t{sizeof(float)};
}

bool StreamsProducts() {
  bool has = false;
  bool* on_device = nullptr;
  if (TensorMapEncoder() == nullptr ||
      cudaMalloc(&on_device, sizeof(has)) != cudaSuccess) {
    cudaGetLastError();  // it is no later call's
    return false;
  }
  // The code that this device runs knows what it was compiled for.
  TellGroupProducts<<<1, 1>>>(on_device);
  const bool told = cudaGetLastError() == cudaSuccess &&
                    cudaMemcpy(&has, on_device, sizeof(has),
                               cudaMemcpyDeviceToHost) == cudaSuccess;
  cudaFree(on_device);
  return told && has;
}

cudaError_t StreamedProduct(const StreamedProductArgs& args,
                            cudaStream_t stream) {
  const int most =
      IsPlain(args.format) ? kMostStreamedPlainRows : kMostStreamedRows;
  if (args.rows > most) return cudaErrorInvalidValue;
  if (args.rows == 0) return cudaSuccess;
  return DispatchFormat(args.dtype, [&](auto format) {
    return LaunchForFormat<decltype(format)>(args, stream);
  });
}

}  // namespace h2o::cuda
