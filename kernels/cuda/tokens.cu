// From logits to tokens, and the states of sequences.
#include <climits>
#include <cmath>
#include <cstdint>

#include "base/kv_page.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/logit_keys.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"
#include "kernels/logit_changes.h"

namespace h2o::cuda {
namespace {

// ---- one thread a row -------------------------------------------------------

constexpr int kRowThreads = 128;

dim3 GridOfThreads(int rows) {
  return dim3(static_cast<unsigned>(CeilDiv(rows, kRowThreads)));
}
__device__ __forceinline__ int RowOfThread() {
  return blockIdx.x * kRowThreads + threadIdx.x;
}

__global__ void __launch_bounds__(kRowThreads)
    BeginDecodeKernel(const SequenceState* states, const int32_t* seats,
                      int rows, int32_t* tokens, int32_t* positions,
                      KvHead** heads) {
  WaitForPrevious();
  AllowNext();
  const int r = RowOfThread();
  if (r >= rows) return;
  const int32_t seat = seats[r];
  const bool runs = Runs(states, seat);
  tokens[r] = runs ? states[seat].token : 0;
  positions[r] = runs ? states[seat].position : -1;
  heads[r] = runs ? states[seat].heads : nullptr;
}

__global__ void __launch_bounds__(kRowThreads)
    PickBestKernel(const BestLogit* of_ranks, int ranks, int rows,
                   int32_t* tokens) {
  WaitForPrevious();
  AllowNext();
  const int r = RowOfThread();
  if (r >= rows) return;
  BestLogit best = of_ranks[r];
  for (int rank = 1; rank < ranks; ++rank) {
    best = BetterOf(best, of_ranks[int64_t{rank} * rows + r]);
  }
  tokens[r] = best.token;
}

__global__ void __launch_bounds__(kRowThreads)
    AdvanceKernel(SequenceState* states, const int32_t* seats, int rows,
                  const int32_t* tokens, RowResult* results) {
  WaitForPrevious();
  AllowNext();
  const int r = RowOfThread();
  if (r >= rows) return;
  results[r] = Runs(states, seats[r])
                   ? NextToken(tokens[r], &states[seats[r]])
                   : RowResult();
}

// ---- a block a row ----------------------------------------------------------

__global__ void __launch_bounds__(kThreads)
    ArgMaxKernel(const float* logits, int64_t stride, int columns,
                 int first_token, BestLogit* best) {
  __shared__ uint64_t of_warps[kWarps];
  WaitForPrevious();
  AllowNext();
  const float* row = logits + blockIdx.x * stride;
  const uint64_t greatest = GreatestOf(row, columns, of_warps);
  if (threadIdx.x == 0) {
    const int winner = ColumnOf(greatest);
    best[blockIdx.x] = KeyOf(greatest) < kKeyOfInfinity
                           ? BestLogit{row[winner], first_token + winner}
                           : BestLogit{NAN, kNoToken};
  }
}

// ---- Sample -----------------------------------------------------------------
//
// A block draws for one row, without sorting it.  Weights are integers, so sums
// do not depend on the order of additions, and two searches are enough:
//
//   Descend      walks the row by descending logit: radix digits of the keys,
//                a histogram of what lies under each digit.
//   WalkInOrder  walks it by ascending id.
//
// Both add up a measure (a weight, or one per token) and stop where the sum
// passes a target.  top_k, top_p and the draw each are such a walk, or two
// where ties have to be counted off.

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
static_assert(kBins == 2 * kThreads, "a thread looks after two bins");

// Where a walk stopped, and how far behind its start the target lies.
struct Stop {
  uint32_t at;  // a key, or an id
  uint64_t rest;
};

struct Shared {
  // Of a bin's sum the low and the high word: 64-bit additions to shared memory
  // are loops.
  uint32_t low[kBins], high[kBins];
  uint64_t of_segments[kWarps];
  uint64_t of_warps[kWarps];
  float greatest[kWarps];
  Stop stop;
};

__device__ void AddToBin(uint64_t amount, int bin, Shared& shared) {
  const uint32_t low = static_cast<uint32_t>(amount);
  const uint32_t sum = atomicAdd(&shared.low[bin], low) + low;
  const uint32_t high = static_cast<uint32_t>(amount >> 32) + (sum < low);
  if (high != 0) atomicAdd(&shared.high[bin], high);
}

__device__ uint64_t BinSum(int bin, const Shared& shared) {
  return uint64_t{shared.high[bin]} << 32 | shared.low[bin];
}

// The sum over this lane and those before it.
__device__ uint64_t WarpScan(uint64_t x) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, x, distance);
    if (Lane() >= distance) x += before;
  }
  return x;
}

// The sum over the threads before this one.  *total: over all.
__device__ uint64_t SumBefore(uint64_t mine, uint64_t* of_warps,
                              uint64_t* total) {
  const uint64_t through = WarpScan(mine);
  if (Lane() == kWarp - 1) of_warps[WarpInBlock()] = through;
  __syncthreads();
  const uint64_t warps = WarpScan(of_warps[Lane()]);
  *total = __shfl_sync(kAllLanes, warps, kWarp - 1);
  const uint64_t before =
      __shfl_sync(kAllLanes, warps, (WarpInBlock() + kWarp - 1) % kWarp);
  return through - mine + (WarpInBlock() == 0 ? 0 : before);
}

// The weights of a row: exp((logit - greatest) / temperature), in 2^-40; zero
// for those that min_p does not leave.
class Weights {
 public:
  __device__ Weights(float greatest, const SamplingParams& sampling)
      : greatest_(greatest),
        inverse_temperature_(1.0 / sampling.temperature),
        least_(LeastLogit(greatest, sampling)) {}

  __device__ bool Leaves(float logit) const { return logit >= least_; }
  __device__ uint64_t operator()(float logit) const {
    if (logit == greatest_) return uint64_t{1} << 40;
    if (!(logit > -INFINITY) || !Leaves(logit)) return 0;
    return __double2ull_rn(
        0x1p40 *
        exp((static_cast<double>(logit) - greatest_) * inverse_temperature_));
  }

 private:
  float greatest_;
  double inverse_temperature_;
  double least_;
};

// The tokens that may be drawn: those above `key`, and of those at `key` the
// ones up to last_tie.
struct Cut {
  uint32_t key = 0;
  int last_tie = INT_MAX;

  __device__ bool Keeps(uint32_t other, int id) const {
    return other > key || (other == key && id <= last_tie);
  }
};

// Finds the key at which the sum of measure(logit, key, id), by descending key,
// passes target(sum of all), which must be less than that sum.  `rest` is what
// the target has left at the first of the tokens with this key.
template <class Measure, class Target>
__device__ Stop Descend(const float* row, int vocabulary, Measure measure,
                        Target target, Shared& shared) {
  uint64_t key = 0;  // its digits so far
  uint64_t rest = 0;
  int known = 32;  // the bits below the digits so far
#pragma unroll 1
  for (int shift = 32 - kDigitBits; known > 0;
       shift = max(shift - kDigitBits, 0)) {
    // These bins are this thread's own also when they are read.
    const int top = kBins - 1 - 2 * threadIdx.x;
    for (int bin : {top, top - 1}) shared.low[bin] = shared.high[bin] = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < vocabulary; id += kThreads) {
      const float logit = row[id];
      const uint32_t its_key = KeyOf(logit);
      if (uint64_t{its_key} >> known != key) continue;
      const uint64_t amount = measure(logit, its_key, id);
      if (amount > 0) AddToBin(amount, its_key >> shift & (kBins - 1), shared);
    }
    __syncthreads();
    const uint64_t at_top = BinSum(top, shared);
    const uint64_t mine = at_top + BinSum(top - 1, shared);
    uint64_t total;
    const uint64_t before = SumBefore(mine, shared.of_warps, &total);
    if (known == 32) rest = target(total);
    if (before <= rest && rest - before < mine) {
      const bool is_top = rest - before < at_top;
      shared.stop = {static_cast<uint32_t>(is_top ? top : top - 1),
                     rest - before - (is_top ? 0 : at_top)};
    }
    __syncthreads();
    // The last digit's upper bit is in the key already.
    const uint32_t new_bits = (1u << (known - shift)) - 1;
    key = key << (known - shift) | (shared.stop.at & new_bits);
    rest = shared.stop.rest;
    known = shift;
  }
  return {static_cast<uint32_t>(key), rest};
}

// The first id at which the sum of measure(logit, key, id), by ascending id,
// passes target(sum of all), which must be less than that sum.
template <class Measure, class Target>
__device__ int WalkInOrder(const float* row, int vocabulary, Measure measure,
                           Target target, Shared& shared) {
  const auto measure_of = [&](int id) -> uint64_t {
    return measure(row[id], KeyOf(row[id]), id);
  };
  // Each warp adds up a segment of the row...
  const int segment = static_cast<int>(CeilDiv(vocabulary, kThreads)) * kWarp;
  const int begin = WarpInBlock() * segment;
  uint64_t sum = 0;
  for (int id = begin + Lane(); id < min(begin + segment, vocabulary);
       id += kWarp) {
    sum += measure_of(id);
  }
  sum = WarpReduce(sum, Plus());
  if (Lane() == 0) shared.of_segments[WarpInBlock()] = sum;
  __syncthreads();
  const uint64_t through = WarpScan(shared.of_segments[Lane()]);
  uint64_t rest = target(__shfl_sync(kAllLanes, through, kWarp - 1));
  const int found = __ffs(__ballot_sync(kAllLanes, through > rest)) - 1;
  if (found > 0) rest -= __shfl_sync(kAllLanes, through, found - 1);

  // ...and all share the one in which the walk ends.
  const int share = static_cast<int>(CeilDiv(segment, kThreads));
  const int first = found * segment + threadIdx.x * share;
  const int last = min(min(first + share, (found + 1) * segment), vocabulary);
  uint64_t mine = 0;
  for (int id = first; id < last; ++id) mine += measure_of(id);
  uint64_t total;
  const uint64_t before = SumBefore(mine, shared.of_warps, &total);
  if (before <= rest && rest - before < mine) {
    rest -= before;
    int id = first;
    for (uint64_t m; rest >= (m = measure_of(id)); ++id) rest -= m;
    shared.stop.at = id;
  }
  __syncthreads();
  return static_cast<int>(shared.stop.at);
}

// The id of the `index`-th token with this key.
__device__ int TieAt(const float* row, int vocabulary, uint32_t key,
                     uint64_t index, Shared& shared) {
  return WalkInOrder(
      row, vocabulary,
      [key](float, uint32_t its_key, int) { return its_key == key ? 1 : 0; },
      [index](uint64_t) { return index; }, shared);
}

__device__ int32_t Draw(const float* row, int vocabulary,
                        const SamplingParams& sampling, uint64_t index,
                        Shared& shared) {
  float greatest = -INFINITY;
  for (int id = threadIdx.x; id < vocabulary; id += kThreads) {
    greatest = fmaxf(greatest, row[id]);
  }
  greatest = BlockReduce(greatest, -INFINITY, shared.greatest, Greatest());
  if (greatest == -INFINITY) return 0;  // no token is better than another

  const Weights weights(greatest, sampling);
  Cut cut;
  if (sampling.top_k > 0 && sampling.top_k < vocabulary) {
    // The last of the top_k, or of those that min_p leaves.
    const uint64_t last = sampling.top_k - 1;
    const Stop stop = Descend(
        row, vocabulary,
        [&](float logit, uint32_t, int) { return weights.Leaves(logit); },
        [last](uint64_t left) { return min(last, left - 1); }, shared);
    cut = {stop.at, TieAt(row, vocabulary, stop.at, stop.rest, shared)};
  }
  const auto kept = [&](float logit, uint32_t key, int id) {
    return cut.Keeps(key, id) ? weights(logit) : 0;
  };
  // Tokens with equal keys have equal weights, so a division finds the token.
  const auto tie_at = [&](const Stop& stop) {
    return TieAt(row, vocabulary, stop.at,
                 stop.rest / weights(LogitOf(stop.at)), shared);
  };
  // The draw is below the sum; rounding must not lift it there.
  const double u = UniformDraw(sampling.seed, index);
  const auto drawn = [u](uint64_t total) {
    return min(static_cast<uint64_t>(u * static_cast<double>(total)),
               total - 1);
  };
  if (!(sampling.top_p > 0 && sampling.top_p < 1)) {
    return WalkInOrder(row, vocabulary, kept, drawn, shared);
  }
  // The last token kept is the one at which the sum reaches top_p.  A walk
  // stops where the sum passes its target, so the target is one less.
  const double top_p = sampling.top_p;
  const auto reaching = [top_p](uint64_t total) {
    const double sum = ceil(top_p * static_cast<double>(total));
    return min(static_cast<uint64_t>(sum), total) - 1;
  };
  const Stop last = Descend(row, vocabulary, kept, reaching, shared);
  cut = {last.at, tie_at(last)};
  return tie_at(Descend(row, vocabulary, kept, drawn, shared));
}

__global__ void __launch_bounds__(kThreads)
    SampleKernel(const float* logits, int64_t stride, int vocabulary,
                 const SequenceState* states, const int32_t* seats,
                 int32_t* tokens) {
  __shared__ Shared shared;
  WaitForPrevious();
  AllowNext();
  const int32_t seat = seats[blockIdx.x];
  if (!Chooses(states, seat, tokens[blockIdx.x])) return;
  const SequenceState& state = states[seat];
  const float* row = logits + blockIdx.x * stride;
  const int32_t token =
      state.sampling.temperature > 0
          ? Draw(row, vocabulary, state.sampling, state.num_generated, shared)
          : ColumnOf(GreatestOf(row, vocabulary, shared.of_warps));
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

// ---- scores -----------------------------------------------------------------

// This lane's part of the sum of a head's scores: slot `lane` of each page.
__device__ __forceinline__ float LaneScores(const KvPool& pool,
                                            const KvHead& head, int lane) {
  float sum = 0;
  for (int first = 0; first < head.num_slots; first += kWarp * kPageSlots) {
    // The numbers of up to kWarp pages, one a lane.
    const int slot = first + lane * kPageSlots;
    const uint32_t mine =
        slot < head.num_slots ? pool.tables[head.table + slot / kPageSlots] : 0;
    const int pages =
        min(kWarp, (head.num_slots - first + kPageSlots - 1) / kPageSlots);
#pragma unroll 4
    for (int p = 0; p < pages; ++p) {
      const uint32_t page = __shfl_sync(~0u, mine, p);
      if (first + p * kPageSlots + lane >= head.num_slots) continue;
      sum += reinterpret_cast<const float*>(
          pool.Page(page) + pool.Layout(head).ScoresOffset())[lane];
    }
  }
  return sum;
}

// A block a row, a warp a head.
__global__ void __launch_bounds__(kThreads)
    SumScoresKernel(const SequenceState* states, const int32_t* seats,
                    int num_heads, KvPool pool, RowResult* results) {
  static_assert(kPageSlots == kWarp);
  __shared__ double of_warps[kWarps];
  WaitForPrevious();
  AllowNext();
  RowResult& result = results[blockIdx.x];
  const int32_t seat = seats[blockIdx.x];
  if (!WantsScores(states, seat, result)) return;
  const KvHead* heads = states[seat].heads;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double sum = 0;
  for (int h = warp; h < num_heads; h += kWarps) {
    const KvHead head = heads[h];
    if (head.slots.score_rule == ScoreRule::kNone) continue;
    sum += LaneScores(pool, head, lane);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    sum += __shfl_down_sync(~0u, sum, step);
  }
  if (lane == 0) of_warps[warp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double all = 0;
  for (int w = 0; w < kWarps; ++w) all += of_warps[w];
  result.kept_scores = static_cast<float>(all);
}

}  // namespace

cudaError_t BeginDecode(const SequenceState* states, const int32_t* seats,
                        int rows, int32_t* tokens, int32_t* positions,
                        KvHead** heads, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(BeginDecodeKernel, {GridOfThreads(rows), kRowThreads}, stream,
                states, seats, rows, tokens, positions, heads);
}

cudaError_t ArgMax(const float* logits, int64_t stride, int rows, int columns,
                   int first_token, BestLogit* best, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(ArgMaxKernel, {dim3(rows), kThreads}, stream, logits, stride,
                columns, first_token, best);
}

cudaError_t PickBest(const BestLogit* of_ranks, int ranks, int rows,
                     int32_t* tokens, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(PickBestKernel, {GridOfThreads(rows), kRowThreads}, stream,
                of_ranks, ranks, rows, tokens);
}

cudaError_t Sample(const float* logits, int64_t stride, int rows,
                   int vocabulary, const SequenceState* states,
                   const int32_t* seats, int32_t* tokens, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(SampleKernel, {dim3(rows), kThreads}, stream, logits, stride,
                vocabulary, states, seats, tokens);
}

cudaError_t Advance(SequenceState* states, const int32_t* seats, int rows,
                    const int32_t* tokens, RowResult* results,
                    cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(AdvanceKernel, {GridOfThreads(rows), kRowThreads}, stream,
                states, seats, rows, tokens, results);
}

cudaError_t SumScores(const SequenceState* states, const int32_t* seats,
                      int rows, int num_heads, const KvPool& pool,
                      RowResult* results, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(SumScoresKernel, {dim3(rows), kThreads}, stream, states, seats,
                num_heads, pool, results);
}

}  // namespace h2o::cuda
