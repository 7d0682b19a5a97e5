// Ends each half of a layer: adds a delta to the residual and normalises the
// result for the next half.  With several GPUs, each has one addend of the
// delta.  The kernel itself sums over the ranks, in the way that the caller
// names (SumWay):
//
//   push   Each rank writes its addend into its peers' inboxes, with the epoch
//          beside each 4 bytes, so that readers see what has arrived (the LL
//          protocol of NCCL).
//   pull   Each rank sets a flag when its addend is complete; its peers then
//          read the addend in place.
//   share  Each rank pulls and sums its share of the columns, and writes that
//          sum to all ranks (a two-shot all-reduce).
//
// With push and pull every rank adds all addends in rank order, so all ranks
// have the same bits.  With share a sum is computed once and copied.
//
// Block r of a rank waits for block r of its peers, and before that for their
// block 0, which sets the flag.  Blocks start in order, so the lowest block
// that is not done can always go on: there is no deadlock.
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"
#include "kernels/peer_sums.h"

namespace h2o::cuda {
namespace {

// A thread has vectors of 4 columns: a warp then reads x, of float32, in one
// piece.
constexpr int kVector = 4;
using Floats = Vector<float, kVector>;

// As many 16-bit numbers, left packed: they wait in registers.
struct alignas(8) Packed {
  uint32_t words[2];
};
static_assert(2 * sizeof(uint32_t) == kVector * sizeof(__half));

template <class T>
__device__ __forceinline__ Packed LoadPacked(const T* p) {
  return *reinterpret_cast<const Packed*>(p);
}
template <class T>
__device__ __forceinline__ void Accumulate(const Packed& packed, Floats* sum) {
  const auto x = __builtin_bit_cast(Vector<T, kVector>, packed);
  for (int j = 0; j < kVector; ++j) sum->at[j] += ToFloat(x.at[j]);
}

template <class T>
__device__ __forceinline__ void StoreRounded(const Floats& x, T* out) {
  Vector<T, kVector> rounded;
  for (int j = 0; j < kVector; ++j) FromFloat(x.at[j], &rounded.at[j]);
  Store(rounded, out);
}

// ---- sums over ranks --------------------------------------------------------

// The head of a rank's memory, zero at first.
struct PeerControl {
  // ready[p]: the last sum for which rank p, who writes this, has its addend.
  struct alignas(128) {
    uint32_t epoch;
  } ready[PeerMemory::kMaxRanks];
  // Its owner's: the last sum that is done, and blocks that are done since.
  uint32_t epoch;
  uint32_t blocks;
};
static_assert(sizeof(PeerControl) <= PeerSums::kControlBytes);

__device__ __forceinline__ PeerControl* ControlOf(const PeerMemory& memory,
                                                  int rank) {
  return reinterpret_cast<PeerControl*>(memory.of_rank[rank]);
}

// Sums are numbered by epochs, from 1 on, because inboxes are zero at first.
// After the last epoch comes 2, so that odd and even epochs keep alternating.
constexpr uint32_t kLastEpoch = 0xffffffff;
__device__ __forceinline__ uint32_t ThisEpoch(const PeerMemory& memory) {
  const uint32_t last = LoadVolatile(&ControlOf(memory, memory.rank)->epoch);
  return last == kLastEpoch ? 2 : last + 1;
}

// The last of the blocks ends the sum.
__device__ __forceinline__ void EndSum(const PeerMemory& memory, int blocks,
                                       uint32_t epoch) {
  __syncthreads();  // all of the block have read the epoch
  PeerControl* const control = ControlOf(memory, memory.rank);
  if (threadIdx.x == 0 && atomicAdd(&control->blocks, 1) + 1 == blocks) {
    control->blocks = 0;
    control->epoch = epoch;
  }
}

// Whether to stop waiting.  The abort word is in host memory and slow to read,
// so only every kGlance-th call reads it.
__device__ __forceinline__ bool GivenUp(const PeerMemory& memory,
                                        uint32_t* times) {
  constexpr uint32_t kGlance = 4096;
  return ++*times % kGlance == 0 && LoadVolatile(memory.aborted) != 0;
}

// A thread for each other rank: the first threads of a block call fn(peer).
template <class Fn>
__device__ __forceinline__ void EachPeer(const PeerMemory& memory,
                                         const Fn& fn) {
  const int peer = threadIdx.x;
  if (peer < memory.size && peer != memory.rank) fn(peer);
}

// Holds the block until come(*word_of(peer)) for every other rank, or until the
// group is given up.
template <class WordOf, class Come>
__device__ __forceinline__ void AwaitPeers(const PeerMemory& memory,
                                           const WordOf& word_of,
                                           const Come& come) {
  EachPeer(memory, [&](int peer) {
    const uint32_t* const word = word_of(peer);
    uint32_t times = 0;
    while (!come(LoadAcquire(word)) && !GivenUp(memory, &times)) {
    }
  });
  __syncthreads();
}

// Where rank `owner` receives 4 columns of a row from rank `from`: two words of
// 2 columns each, both followed by the epoch.
__device__ __forceinline__ uint4* InboxSlot(const PeerSums& sums, int owner,
                                            int from, uint32_t epoch, int row,
                                            int column) {
  const int64_t line =
      (int64_t{epoch % 2} * sums.memory.size + from) * PeerSums::kPushRows +
      row;
  return reinterpret_cast<uint4*>(sums.memory.of_rank[owner] + sums.inbox_at +
                                  line *
                                      PeerSums::InboxRowBytes(sums.row_bytes)) +
         column / kVector;
}

// The epoch of the last sum for which rank `owner` has received rank `from`'s
// share of row `row`.
__device__ __forceinline__ uint32_t* RowFlag(const PeerSums& sums, int owner,
                                             int row, int from) {
  return reinterpret_cast<uint32_t*>(sums.memory.of_rank[owner] +
                                     sums.row_flags_at +
                                     row * PeerSums::kRowFlagBytes) +
         from;
}

// Clears the flags before epochs start again: a row that was not used for long
// must not look up to date.
__device__ void ClearRowFlags(const PeerSums& sums, int rows) {
  const int from = threadIdx.x;
  if (from >= sums.memory.size) return;
  for (int row = blockIdx.x; row < sums.max_rows; row += rows) {
    *RowFlag(sums, sums.memory.rank, row, from) = 0;
  }
}
__device__ void ClearInbox(const PeerSums& sums, uint32_t epoch, int rows) {
  const int lines = PeerSums::InboxRowBytes(sums.row_bytes) / sizeof(uint4);
  for (int from = 0; from < sums.memory.size; ++from) {
    for (int row = blockIdx.x; row < PeerSums::kPushRows; row += rows) {
      uint4* const slots =
          InboxSlot(sums, sums.memory.rank, from, epoch, row, 0);
      for (int i = threadIdx.x; i < lines; i += blockDim.x) slots[i] = {};
    }
  }
}

// Pushes this rank's addend `own` to its peers, and adds the addends of all
// ranks to x.  each(fn) calls fn(v, column) for every vector v of the thread.
template <int kMostRanks, class T, int kVectors, class Each>
__device__ __forceinline__ void PushAndAdd(const PeerSums& sums, uint32_t epoch,
                                           int row, const Packed* own,
                                           Floats (&x)[kVectors],
                                           const Each& each) {
  const PeerMemory& memory = sums.memory;
  const auto each_peer = [&](auto fn) {
#pragma unroll
    for (int r = 0; r < kMostRanks; ++r) {
      if (r < memory.size && r != memory.rank) fn(r);
    }
  };
  each([&](int v, int column) {
    each_peer([&](int r) {
      StoreVolatile(InboxSlot(sums, r, memory.rank, epoch, row, column),
                    {own[v].words[0], epoch, own[v].words[1], epoch});
    });
  });
  uint32_t times = 0;
  each([&](int v, int column) {
    uint4 got[kMostRanks];
    bool here;
    do {
      here = true;
      each_peer([&](int r) {
        got[r] =
            LoadVolatile(InboxSlot(sums, memory.rank, r, epoch, row, column));
        here &= got[r].y == epoch && got[r].w == epoch;
      });
    } while (!here && !GivenUp(memory, &times));
#pragma unroll
    for (int r = 0; r < kMostRanks; ++r) {
      if (r == memory.rank) {
        Accumulate<T>(own[v], &x[v]);
      } else if (r < memory.size) {
        Accumulate<T>({{got[r].x, got[r].z}}, &x[v]);
      }
    }
  });
}

// Tells the peers that this rank's addend is complete.  Pushed sums do not need
// that, but do it every kToldEvery epochs: epochs are compared by their signed
// difference, so a flag that is 2^31 epochs old would look like a future one.
constexpr uint32_t kToldEvery = 1u << 29;
__device__ __forceinline__ void TellReady(const PeerMemory& memory,
                                          uint32_t epoch) {
  EachPeer(memory, [&](int peer) {
    if (blockIdx.x != 0) return;
    StoreRelease(&ControlOf(memory, peer)->ready[memory.rank].epoch, epoch);
  });
}

// Waits until the addends of all peers are there.
__device__ __forceinline__ void AwaitReady(const PeerMemory& memory,
                                           uint32_t epoch) {
  AwaitPeers(
      memory,
      [&](int peer) {
        return &ControlOf(memory, memory.rank)->ready[peer].epoch;
      },
      // A peer may be ahead, by one sum.
      [&](uint32_t ready) { return static_cast<int32_t>(ready - epoch) >= 0; });
}

template <class T>
__device__ __forceinline__ T* AddendRow(const PeerSums& sums, int rank,
                                        int turn, int row) {
  return reinterpret_cast<T*>(sums.memory.of_rank[rank] + sums.addend_at[turn] +
                              row * sums.row_bytes);
}

template <int kMostRanks, class T, int kVectors, class Each>
__device__ __forceinline__ void PullAndAdd(const PeerSums& sums, int turn,
                                           uint32_t epoch, int row,
                                           const Packed* own,
                                           Floats (&x)[kVectors],
                                           const Each& each) {
  const PeerMemory& memory = sums.memory;
  AwaitReady(memory, epoch);
  constexpr int kAtOnce = kMostRanks == 2 ? 2 : 1;
#pragma unroll kAtOnce
  for (int r = 0; r < (kMostRanks == 2 ? 2 : memory.size); ++r) {
    Packed addend[kVectors];
    const T* const from = AddendRow<T>(sums, r, turn, row);
    each([&](int v, int column) {
      addend[v] = r == memory.rank ? own[v] : LoadPacked(from + column);
    });
    each([&](int v, int) { Accumulate<T>(addend[v], &x[v]); });
  }
}

// Writes the sum of this rank's share of the row over all ranks' addends.
template <int kMostRanks, class T>
__device__ __forceinline__ void AddUpShare(const PeerSums& sums, int turn,
                                           int row, int columns) {
  const PeerMemory& memory = sums.memory;
  const int vectors = columns / kVector;
  const int end = vectors * (memory.rank + 1) / memory.size;
  const auto each_rank = [&](auto fn) {
#pragma unroll
    for (int r = 0; r < kMostRanks; ++r) {
      if (r < memory.size) fn(r);
    }
  };
  for (int i = vectors * memory.rank / memory.size + threadIdx.x; i < end;
       i += blockDim.x) {
    Packed addends[kMostRanks];
    each_rank([&](int r) {
      addends[r] = LoadPacked(AddendRow<T>(sums, r, turn, row) + kVector * i);
    });
    Floats sum = {};
    each_rank([&](int r) { Accumulate<T>(addends[r], &sum); });
    each_rank([&](int r) {
      StoreRounded(sum, AddendRow<T>(sums, r, turn, row) + kVector * i);
    });
  }
}

// Sums this rank's share of a row, and sets the row's flags at the peers.
template <int kMostRanks, class T>
__device__ __forceinline__ void HandOnShare(const PeerSums& sums, int turn,
                                            uint32_t epoch, int row,
                                            int columns) {
  const PeerMemory& memory = sums.memory;
  AwaitReady(memory, epoch);
  AddUpShare<kMostRanks, T>(sums, turn, row, columns);
  __syncthreads();
  EachPeer(memory, [&](int peer) {
    StoreRelease(RowFlag(sums, peer, row, memory.rank), epoch);
  });
}

template <class T, int kVectors, class Each>
__device__ __forceinline__ void AddShares(const PeerSums& sums, int turn,
                                          uint32_t epoch, int row,
                                          Floats (&x)[kVectors],
                                          const Each& each) {
  const PeerMemory& memory = sums.memory;
  AwaitPeers(
      memory, [&](int peer) { return RowFlag(sums, memory.rank, row, peer); },
      [&](uint32_t flag) { return flag == epoch; });
  const T* const whole = AddendRow<T>(sums, memory.rank, turn, row);
  Packed sum[kVectors];
  each([&](int v, int column) { sum[v] = LoadPacked(whole + column); });
  each([&](int v, int) { Accumulate<T>(sum[v], &x[v]); });
}

// ---- AddNorm ----------------------------------------------------------------

struct Affine {
  Floats weight, bias;
};

template <class T>
__device__ __forceinline__ Packed LoadBias(const AddNormArgs& a, int column) {
  if (a.bias == nullptr) return {};
  return LoadPacked(static_cast<const T*>(a.bias) + column);
}

__device__ __forceinline__ Affine LoadAffine(const AddNormArgs& a, int column) {
  Affine affine = {{{1, 1, 1, 1}}, {}};
  if (a.weight) affine.weight = Load<kVector>(a.weight + column);
  if (a.norm_bias) affine.bias = Load<kVector>(a.norm_bias + column);
  return affine;
}

template <class T>
__device__ __forceinline__ void PrefetchParameters(const AddNormArgs& a,
                                                   int column) {
  if (a.bias) PrefetchLine(static_cast<const T*>(a.bias) + column);
  if (a.weight) PrefetchLine(a.weight + column);
  if (a.norm_bias) PrefetchLine(a.norm_bias + column);
}

// How a row lies over the threads of a block: kVectors of a thread, and at most
// kThreads; at least kBlocks are on a multiprocessor at a time.  Held
// parameters wait in registers.
template <int kVectorsOfThread, int kMostThreads, int kFewestBlocks, bool kHold>
struct RowLayout {
  static constexpr int kVectors = kVectorsOfThread;
  static constexpr int kThreads = kMostThreads, kBlocks = kFewestBlocks;
  static constexpr bool kHeld = kHold;
};
// Few rows leave the device idle: many threads finish each sooner.
using FewRows = RowLayout<2, 1024, 1, true>;
using FewLongRows = RowLayout<4, 768, 1, false>;
// Of many, as many as possible should be under way.
using ManyRows = RowLayout<2, 896, 2, false>;
using LongRows = RowLayout<4, 768, 2, false>;

constexpr int kFewRows = PeerSums::kPushRows;
template <class Layout>
constexpr int kMostColumns = kVector* Layout::kVectors* Layout::kThreads;

// One block a row, which it keeps in registers: thread t has the vectors t,
// t + threads, ...  Mean and variance are two sums over those registers.
//
// The parameters (bias and norm) are written by no kernel, so they are loaded
// while the kernel before still runs: held ones into registers, others into the
// L2 cache.  A loop that loads does not store, so that all its loads are in
// flight at once.
template <class T, class Layout, SumWay kWay, int kMostRanks>
__global__ void __launch_bounds__(Layout::kThreads, Layout::kBlocks)
    AddNormKernel(const __grid_constant__ AddNormArgs a,
                  const float inverse_columns) {
  __shared__ float sums[kWarp], squares[kWarp];
  constexpr int kVectors = Layout::kVectors;
  constexpr bool kHeld = Layout::kHeld;
  // Registers are short.
  constexpr bool kBiasLate = std::is_same_v<Layout, LongRows>;
  const auto each = [&](auto fn) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = kVector * (threadIdx.x + v * blockDim.x);
      if (column < a.columns) fn(v, column);
    }
  };
  Floats x[kVectors];
  Packed delta[kVectors], bias[kVectors];
  Affine affine[kHeld ? kVectors : 1];

  each([&](int v, int column) {
    if constexpr (kHeld) {
      bias[v] = LoadBias<T>(a, column);
      affine[v] = LoadAffine(a, column);
    } else {
      PrefetchParameters<T>(a, column);
    }
  });
  WaitForPrevious();

  const PeerSums& peers = a.peers;
  uint32_t epoch = 0;
  if constexpr (kWay != SumWay::kAllReduce) epoch = ThisEpoch(peers.memory);
  if (kWay == SumWay::kPull || kWay == SumWay::kShare ||
      (kWay == SumWay::kPush && epoch % kToldEvery == 0)) {
    TellReady(peers.memory, epoch);
  }

  const int64_t row = blockIdx.x;
  if constexpr (kWay == SumWay::kShare) {
    HandOnShare<kMostRanks, T>(peers, a.turn, epoch, row, a.columns);
  }
  float* const x_row = a.x + row * a.x_stride;
  const T* const delta_row =
      static_cast<const T*>(a.delta) + row * a.delta_stride;
  each([&](int v, int column) {
    if (kWay != SumWay::kShare && a.delta) {
      delta[v] = LoadPacked(delta_row + column);
    }
    x[v] = Load<kVector>(x_row + column);
    if (a.delta && !kHeld && !kBiasLate) bias[v] = LoadBias<T>(a, column);
  });
  AllowNext();  // behind the wait: attention relies on that

  if (a.delta) {
    if constexpr (kWay == SumWay::kPush) {
      PushAndAdd<kMostRanks, T>(peers, epoch, row, delta, x, each);
    } else if constexpr (kWay == SumWay::kPull) {
      PullAndAdd<kMostRanks, T>(peers, a.turn, epoch, row, delta, x, each);
    } else if constexpr (kWay == SumWay::kShare) {
      AddShares<T>(peers, a.turn, epoch, row, x, each);
    } else {
      each([&](int v, int) { Accumulate<T>(delta[v], &x[v]); });
    }
    if constexpr (kBiasLate) {
      each([&](int v, int column) { bias[v] = LoadBias<T>(a, column); });
    }
    each([&](int v, int) { Accumulate<T>(bias[v], &x[v]); });
    if (a.place != NormPlace::kAfter) {
      each([&](int v, int column) { Store(x[v], x_row + column); });
    }
  }

  if (a.place != NormPlace::kNone) {
    float sum = 0;
    each([&](int v, int) {
      for (int j = 0; j < kVector; ++j) sum += x[v].at[j];
    });
    const float mean = inverse_columns * BlockReduce(sum, 0.0f, sums, Plus());
    float square = 0;
    each([&](int v, int) {
      for (int j = 0; j < kVector; ++j) {
        const float centred = x[v].at[j] - mean;
        square += centred * centred;
      }
    });
    square = BlockReduce(square, 0.0f, squares, Plus());
    const float inverse = rsqrtf(inverse_columns * square + a.epsilon);
    each([&](int v, int column) {
      Affine scale;
      if constexpr (kHeld) {
        scale = affine[v];
      } else {
        scale = LoadAffine(a, column);
      }
      for (int j = 0; j < kVector; ++j) {
        x[v].at[j] = (x[v].at[j] - mean) * inverse * scale.weight.at[j] +
                     scale.bias.at[j];
      }
    });
    if (a.place == NormPlace::kAfter) {
      each([&](int v, int column) { Store(x[v], x_row + column); });
    }
  }
  if (a.out != nullptr) {
    T* const out_row = static_cast<T*>(a.out) + row * a.out_stride;
    each([&](int v, int column) { StoreRounded(x[v], out_row + column); });
  }
  if constexpr (kWay != SumWay::kAllReduce) {
    if (epoch >= kLastEpoch - 1) {
      // All of the block have what they waited for; and no store is moved ahead
      // of the waiting.
      __syncthreads();
      ClearInbox(peers, epoch, a.rows);
      ClearRowFlags(peers, a.rows);
    }
    EndSum(peers.memory, a.rows, epoch);
  }
}

template <class T, class Layout, SumWay kWay, int kMostRanks>
cudaError_t LaunchAddNorm(const AddNormArgs& args, cudaStream_t stream) {
  const int64_t threads = CeilDiv(args.columns, kVector * Layout::kVectors);
  return Launch(
      AddNormKernel<T, Layout, kWay, kMostRanks>,
      {dim3(args.rows), static_cast<int>(CeilDiv(threads, kWarp) * kWarp)},
      stream, args, 1.0f / static_cast<float>(args.columns));
}

// Up to kFewRanks ranks have a kernel of their own; more ranks use the kernel
// for kMaxRanks.
template <class T, class Layout, SumWay kWay, int kFewRanks>
cudaError_t LaunchSum(const AddNormArgs& args, cudaStream_t stream) {
  return args.peers.memory.size <= kFewRanks
             ? LaunchAddNorm<T, Layout, kWay, kFewRanks>(args, stream)
             : LaunchAddNorm<T, Layout, kWay, PeerMemory::kMaxRanks>(args,
                                                                     stream);
}

template <class T>
cudaError_t LaunchAs(const AddNormArgs& args, cudaStream_t stream) {
  const bool few =
      args.rows <= kFewRows && args.columns <= kMostColumns<FewRows>;
  switch (args.way) {
    case SumWay::kPush:
      return few ? LaunchSum<T, FewRows, SumWay::kPush, 2>(args, stream)
                 : LaunchSum<T, FewLongRows, SumWay::kPush, 2>(args, stream);
    case SumWay::kPull:
      return few ? LaunchSum<T, FewRows, SumWay::kPull, 2>(args, stream)
                 : LaunchSum<T, LongRows, SumWay::kPull, 2>(args, stream);
    case SumWay::kShare:
      return LaunchSum<T, LongRows, SumWay::kShare, 4>(args, stream);
    case SumWay::kAllReduce:
      constexpr SumWay kWhole = SumWay::kAllReduce;
      if (few) return LaunchAddNorm<T, FewRows, kWhole, 1>(args, stream);
      return args.columns <= kMostColumns<ManyRows>
                 ? LaunchAddNorm<T, ManyRows, kWhole, 1>(args, stream)
                 : LaunchAddNorm<T, LongRows, kWhole, 1>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t AddNorm(const AddNormArgs& args, cudaStream_t stream) {
  static_assert(kMostNormColumns == kMostColumns<LongRows>);
  if (args.columns % kColumnVector != 0 || args.columns > kMostNormColumns) {
    return cudaErrorInvalidValue;
  }
  const PeerSums& peers = args.peers;
  if (args.way != SumWay::kAllReduce &&
      (!peers || args.delta != peers.Addend(args.turn) ||
       args.rows > peers.max_rows ||
       args.delta_stride * SizeOf(args.dtype) != peers.row_bytes ||
       (args.way == SumWay::kPush && args.rows > PeerSums::kPushRows))) {
    return cudaErrorInvalidValue;
  }
  if (args.rows == 0) return cudaSuccess;
  return DispatchFormat(args.dtype, [&](auto format) {
    return LaunchAs<decltype(format)>(args, stream);
  });
}

}  // namespace h2o::cuda
