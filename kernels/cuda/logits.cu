// What sampling options change of logits, and logprobs: the twin of
// cpu/logits.cc.
//
// A block works on one row.  Between two steps of a change all of its threads
// meet, because tokens repeat: every place of a token reads what all of them
// must read before any of them writes, and all write the same.
#include <cmath>
#include <cstdint>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/logit_keys.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vectors.cuh"
#include "kernels/logit_changes.h"

namespace h2o::cuda {
namespace {

// fn(i) for i in [begin, end), by the threads in turn; then all meet.  The same
// thread gets the same i in every call.
template <class Fn>
__device__ void ForAll(int begin, int end, Fn fn) {
  const int turn = static_cast<int>(threadIdx.x);
  for (int i = turn; i < end; i += kThreads) {
    if (i >= begin) fn(i);
  }
  __syncthreads();
}

// In between, the row itself counts how often the answer holds each token.
// Counts are whole numbers, so the order of additions changes nothing.
__device__ void Penalize(const SequenceState& state, const LogitUndo& undo,
                         float* row) {
  const int known = KnownTokens(state);
  const int32_t* tokens = state.tokens;
  ForAll(0, known, [&](int i) { undo.before[i] = row[tokens[i]]; });
  ForAll(0, known, [&](int i) { row[tokens[i]] = 0; });
  ForAll(FirstOfAnswer(state), known,
         [&](int i) { atomicAdd(&row[tokens[i]], 1.0f); });
  ForAll(0, known, [&](int i) {
    undo.after[i] =
        PenalizedLogit(undo.before[i], row[tokens[i]], state.sampling);
  });
  ForAll(0, known, [&](int i) { row[tokens[i]] = undo.after[i]; });
}

__global__ void __launch_bounds__(kThreads)
    ChangeLogitsKernel(float* logits, int64_t stride,
                       const SequenceState* states, const int32_t* seats,
                       const int32_t* tokens, float* undo_rows,
                       int64_t undo_stride) {
  WaitForPrevious();
  AllowNext();
  const int32_t seat = seats[blockIdx.x];
  if (!ChangesLogits(states, seat, tokens[blockIdx.x])) return;
  const SequenceState& state = states[seat];
  const LogitUndo undo(undo_rows + blockIdx.x * undo_stride,
                       KnownTokens(state));
  float* row = logits + blockIdx.x * stride;
  // A token has one bias at most.
  ForAll(0, state.num_biases, [&](int i) {
    float& logit = row[state.biases[i].token];
    undo.of_biases[i] = logit;
    logit = ChangedLogit(static_cast<double>(logit) + state.biases[i].bias);
  });
  if (Penalizes(state.sampling)) Penalize(state, undo, row);
  if (!BansStops(state)) return;
  ForAll(0, state.num_stop_tokens,
         [&](int i) { undo.of_stops[i] = row[state.stop_tokens[i]]; });
  ForAll(0, state.num_stop_tokens,
         [&](int i) { row[state.stop_tokens[i]] = -INFINITY; });
}

// The last change first.
__global__ void __launch_bounds__(kThreads)
    RestoreLogitsKernel(float* logits, int64_t stride,
                        const SequenceState* states, const int32_t* seats,
                        const int32_t* tokens, float* undo_rows,
                        int64_t undo_stride) {
  WaitForPrevious();
  AllowNext();
  const int32_t seat = seats[blockIdx.x];
  if (!ChangesLogits(states, seat, tokens[blockIdx.x])) return;
  const SequenceState& state = states[seat];
  const LogitUndo undo(undo_rows + blockIdx.x * undo_stride,
                       KnownTokens(state));
  float* row = logits + blockIdx.x * stride;
  if (BansStops(state)) {
    ForAll(0, state.num_stop_tokens,
           [&](int i) { row[state.stop_tokens[i]] = undo.of_stops[i]; });
  }
  if (Penalizes(state.sampling)) {
    ForAll(0, KnownTokens(state),
           [&](int i) { row[state.tokens[i]] = undo.before[i]; });
  }
  ForAll(0, state.num_biases,
         [&](int i) { row[state.biases[i].token] = undo.of_biases[i]; });
}

// ---- logprobs ---------------------------------------------------------------

struct LogprobShared {
  float greatest[kWarps];
  double sum[kWarps];
  uint64_t place[kWarps];
};

// The place of the greatest logit that comes behind `before`, known to all
// threads.
__device__ uint64_t NextGreatest(const float* row, int vocabulary,
                                 uint64_t before, uint64_t* of_warps) {
  uint64_t greatest = 0;
  for (int id = threadIdx.x; id < vocabulary; id += kThreads) {
    const uint64_t place = PlaceOf(KeyOf(row[id]), id);
    if (place < before && place > greatest) greatest = place;
  }
  __syncthreads();  // of_warps was read
  return BlockReduce(greatest, uint64_t{0}, of_warps, Greatest());
}

// The order of additions is fixed.
__device__ void WriteLogprobs(const float* row, int vocabulary, int32_t token,
                              int top, LogprobRow* out, LogprobShared& shared) {
  float greatest = -INFINITY;
  for (int id = threadIdx.x; id < vocabulary; id += kThreads) {
    greatest = fmaxf(greatest, row[id]);
  }
  greatest = BlockReduce(greatest, -INFINITY, shared.greatest, Greatest());
  double sum = 0;
  for (int id = threadIdx.x; id < vocabulary; id += kThreads) {
    sum += expf(row[id] - greatest);
  }
  sum = BlockReduce(sum, 0.0, shared.sum, Plus());
  const double shift = greatest + log(sum);
  const auto logprob_of = [&](int id) -> TokenLogprob {
    return {id, static_cast<float>(row[id] - shift)};
  };
  const int num_top = min(top, vocabulary);
  if (threadIdx.x == 0) {
    out->chosen = logprob_of(token);
    out->num_top = num_top;
  }
  uint64_t place = ~uint64_t{0};
  for (int i = 0; i < num_top; ++i) {
    place = NextGreatest(row, vocabulary, place, shared.place);
    if (threadIdx.x == 0) out->top[i] = logprob_of(ColumnOf(place));
  }
}

__global__ void __launch_bounds__(kThreads)
    LogprobsKernel(const float* logits, int64_t stride, int vocabulary,
                   const SequenceState* states, const int32_t* seats,
                   const RowResult* results, LogprobRow* out) {
  __shared__ LogprobShared shared;
  WaitForPrevious();
  AllowNext();
  const int r = blockIdx.x;
  if (!ReportsLogprobs(states, seats[r], results[r])) {
    if (threadIdx.x == 0) out[r].chosen.token = kNoToken;
    return;
  }
  WriteLogprobs(logits + r * stride, vocabulary, results[r].token,
                states[seats[r]].top_logprobs, out + r, shared);
}

__global__ void __launch_bounds__(kThreads)
    PromptLogprobsKernel(const float* logits, int64_t stride, int vocabulary,
                         const int32_t* tokens, int top, LogprobRow* out) {
  __shared__ LogprobShared shared;
  WaitForPrevious();
  AllowNext();
  const int r = blockIdx.x;
  WriteLogprobs(logits + r * stride, vocabulary, tokens[r], top, out + r,
                shared);
}

}  // namespace

cudaError_t ChangeLogits(float* logits, int64_t stride, int rows,
                         const SequenceState* states, const int32_t* seats,
                         const int32_t* tokens, float* undo,
                         int64_t undo_stride, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(ChangeLogitsKernel, {dim3(rows), kThreads}, stream, logits,
                stride, states, seats, tokens, undo, undo_stride);
}

cudaError_t RestoreLogits(float* logits, int64_t stride, int rows,
                          const SequenceState* states, const int32_t* seats,
                          const int32_t* tokens, float* undo,
                          int64_t undo_stride, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(RestoreLogitsKernel, {dim3(rows), kThreads}, stream, logits,
                stride, states, seats, tokens, undo, undo_stride);
}

cudaError_t Logprobs(const float* logits, int64_t stride, int rows,
                     int vocabulary, const SequenceState* states,
                     const int32_t* seats, const RowResult* results,
                     LogprobRow* out, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(LogprobsKernel, {dim3(rows), kThreads}, stream, logits, stride,
                vocabulary, states, seats, results, out);
}

cudaError_t PromptLogprobs(const float* logits, int64_t stride, int rows,
                           int vocabulary, const int32_t* tokens, int top,
                           LogprobRow* out, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Launch(PromptLogprobsKernel, {dim3(rows), kThreads}, stream, logits,
                stride, vocabulary, tokens, top, out);
}

}  // namespace h2o::cuda
