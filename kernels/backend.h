// A Backend is the arithmetic of one rank on one device.  It has two twins, one
// for CPUs and one for CUDA.
//
// All pointers are to memory of the device.  Operations are enqueued on its
// queue in order; on CPUs they are done on return.  Row strides of matrices are
// multiples of kRowAlignment elements.  Columns behind the last one are zero
// and stay zero, so that kernels can read whole vectors.  Weights have the
// format of the checkpoint, of --dtype or of --weights.  Residuals, scores and
// logits are float32; activations between them are of formats().activations.
//
// Operations may read weights, biases and parameters of norms before earlier
// operations are done.  So these must be written before a Synchronize.
//
// Threads  one owner, the step thread of the rank.  An operation may use
//          threads of its own.
// Errors   operations cannot fail.  Sizes are checked when a backend is made.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/dtype.h"
#include "base/kv_page.h"
#include "base/sampling.h"
#include "base/weight_format.h"
#include "kernels/device.h"
#include "kernels/kv_head.h"
#include "kernels/logit_changes.h"
#include "kernels/norm_place.h"
#include "kernels/peer_sums.h"
#include "kernels/sequence_state.h"

namespace h2o {

inline constexpr int64_t kRowAlignment = 32;
constexpr int64_t AlignedStride(int64_t columns) {
  return CeilDiv(columns, kRowAlignment) * kRowAlignment;
}

// A matrix [rows, columns] that owns nothing.
struct Matrix {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // of rows, in elements
  DType dtype = DType::kFloat32;

  explicit operator bool() const { return data != nullptr; }
  std::byte* At(int64_t row, int64_t column = 0) const {
    return static_cast<std::byte*>(data) +
           (row * stride + column) * SizeOf(dtype);
  }
  // REQUIRES: dtype is float32.
  float* Row(int64_t r) const { return static_cast<float*>(data) + r * stride; }
  Matrix Rows(int64_t begin, int64_t count) const {
    return {At(begin), count, columns, stride, dtype};
  }
  int64_t bytes() const { return rows * stride * SizeOf(dtype); }
};

// A stored matrix [rows, columns], read only: rows are outputs of a linear
// layer, or entries of an embedding table, which are plain.  Padding columns of
// plain rows are zero; those of codes may be anything.
struct StoredMatrix {
  const void* data = nullptr;
  WeightFormat format = WeightFormat::kFloat32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // WeightStride(format, columns)
  // Of codes.  fp8 and int8: float [rows].  int4: GroupScale [rows][groups()].
  const void* scales = nullptr;
  int group = 0;  // inputs that share a scale, of int4

  int64_t row_bytes() const { return stride * BitsOf(format) / 8; }
  // There is room for whole blocks of rows of codes.
  int64_t bytes() const { return rows_with_room() * row_bytes(); }
  int64_t scale_bytes() const {  // of codes
    if (format != WeightFormat::kInt4) return rows * int64_t{sizeof(float)};
    return rows_with_room() * groups() * int64_t{sizeof(GroupScale)};
  }
  int64_t rows_with_room() const {
    return IsPlain(format) ? rows : CeilDiv(rows, kCodeBlock) * kCodeBlock;
  }
  const void* Row(int64_t r) const {
    return static_cast<const std::byte*>(data) + r * row_bytes();
  }
  int64_t groups() const { return stride / group; }
  const float* RowScales() const { return static_cast<const float*>(scales); }
  const GroupScale* GroupScales(int64_t r) const {
    return static_cast<const GroupScale*>(scales) + r * groups();
  }
};

// Elements from one row of weights to the next.
constexpr int64_t WeightStride(WeightFormat format, int64_t columns) {
  if (IsPlain(format)) return AlignedStride(columns);
  return CeilDiv(columns, kCodeBlock) * kCodeBlock;
}

enum class Epilogue : uint8_t { kNone, kRelu, kGelu };

// y = epilogue(x W^T + bias).
struct LinearWeights {
  StoredMatrix weight;         // [outputs, inputs]
  const void* bias = nullptr;  // [outputs], formats().biases; null: none
};

struct LayerNormWeights {
  const float* weight = nullptr;  // [columns]; null: 1
  const float* bias = nullptr;    // [columns]; null: 0
  float epsilon = 1e-5f;          // added to the variance
};

// The matrix to add to a residual.  With `peers`, `mine` is only this rank's
// addend, peers->Addend(turn), and the sum over all ranks is added; the addend
// may be overwritten.
struct Delta {
  Matrix mine;
  const PeerSums* peers = nullptr;
  int turn = 0;
  SumWay way = SumWay::kAllReduce;  // never this with peers; alike on all ranks
};

// Prompts side by side: prompt p is rows [starts[p], starts[p + 1]).
struct PromptBatch {
  absl::Span<const int32_t> starts;        // [n + 1], on the host
  const int32_t* device_starts = nullptr;  // the same, on the device
  // [n]: [layers][heads of this rank].  Null: the sequence is gone, and nobody
  // reads its rows.
  KvHead* const* heads = nullptr;
  bool scored = true;  // whether any head has a score rule

  int64_t size() const { return static_cast<int64_t>(starts.size()) - 1; }
};

// Rows of a decode step, one token each.
struct DecodeBatch {
  KvHead* const* heads = nullptr;      // [rows]: [layers][heads of this rank]
  const int32_t* positions = nullptr;  // [rows]; -1: the row does nothing
  int32_t max_slots = 0;               // no head stores more
  bool scored = true;  // whether any head has a score rule or evicts
};

// The number formats of a backend, and what it can do.
struct Formats {
  DType activations = DType::kFloat32;
  DType biases = DType::kFloat32;
  // Whether one prefill should process several prompts (packed prefill).  GPUs
  // are not busy with one short prompt; several share each read of the weights.
  bool packs_prompts = false;
  // Whether AddNorm sums over ranks that map each other's memory.
  bool sums_peers = false;
  // Whether Linear takes weights of codes.
  bool codes = false;
};

// Elements of a tensor of random numbers: a rectangle of a matrix
// [.., full_columns] that is filled from (seed, stream, index in the whole).
struct DummyTensor {
  uint64_t seed = 0;
  uint64_t stream = 0;  // of the tensor's name
  float scale = 1;
  int64_t row_begin = 0, rows = 0;
  int64_t column_begin = 0, columns = 0;
  int64_t full_columns = 0;
};

class Backend : public Device {
 public:
  virtual Formats formats() const = 0;

  // out[i] = table row of tokens[i] - first_token, or zero where that is
  // outside the table (another rank has it).
  virtual void Embed(const int32_t* tokens, int32_t first_token,
                     const StoredMatrix& table, Matrix out) = 0;
  // x[i] = delta[i] + table row positions[i] (row 0 for negative ones).
  virtual void AddPositions(Matrix delta, const int32_t* positions,
                            const StoredMatrix& table, Matrix x) = 0;
  // x += delta + bias; then x and `out` become what `place` says.  Without
  // `delta`, nothing is added; without `out`, only x is written.  With peers,
  // all ranks must make the same calls, and `turn` must alternate.
  virtual void AddNorm(Matrix x, const Delta& delta, const void* bias,
                       NormPlace place, const LayerNormWeights& weights,
                       Matrix out) = 0;
  virtual void Linear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                      Matrix y) = 0;
  // Brings the weight's codes and scales, which lie in order
  // (base/weight_codes.h) at `codes` and `scales`, into the order in which
  // Linear reads them.  Called once for each matrix of codes.
  virtual void Arrange(const StoredMatrix& weight, void* codes,
                       void* scales) = 0;
  // out[i] = x[rows[i]].
  virtual void GatherRows(Matrix x, const int32_t* rows, Matrix out) = 0;

  // Causal attention over whole prompts.  qkv [rows, QkvLayout::columns()],
  // with a KV head for each query head.  Fills each head's slots with the
  // tokens that its policy keeps, and their scores.  out [rows, heads *
  // head_dim].
  virtual void PrefillAttention(Matrix qkv, const PromptBatch& prompts,
                                int layer, const KvPool& pool, Matrix out) = 0;

  // One token of each of qkv.rows sequences.  Attends the stored slots and the
  // token itself, updates scores, and writes the token into a free slot or over
  // the victim.  evicted [rows, heads]: the victim's position or -1.
  virtual void DecodeAttention(Matrix qkv, const DecodeBatch& batch, int layer,
                               const KvPool& pool, Matrix out,
                               int32_t* evicted) = 0;

  // out [count, stride]: the positions that each of `count` heads stores, in
  // the order of its slots.
  virtual void StoredPositions(const KvHead* heads, int count,
                               const KvPool& pool, int stride,
                               uint16_t* out) = 0;

  // to[h] stores the same as from[h], in pages of its own: keys, values, scores
  // and positions, slot by slot.  REQUIRES: both have equal formats and slots,
  // and to[h] has as many pages.
  virtual void CopyHeads(const KvHead* from, KvHead* to, int count,
                         const KvPool& pool) = 0;

  // Row r runs states[seats[r]]: its token, position and heads.  A row with
  // seat -1, and one whose sequence is finished, gets token 0, position -1.
  virtual void BeginDecode(const SequenceState* states, const int32_t* seats,
                           int64_t rows, int32_t* tokens, int32_t* positions,
                           KvHead** heads) = 0;

  // Logits that are not finite.  A row that holds a NaN or +Infinity, in any
  // rank's columns, has no token: ArgMax and PickBest yield kNoToken, Sample
  // leaves it, and Advance ends its sequence with kNonFinite.  All ranks decide
  // alike, and other rows of the batch are not affected.  -Infinity is less
  // than any number.  A row of -Infinity alone gets token 0, greedy or sampled.

  // The greatest logit of each row; of equal ones the lowest column.
  // Column c stands for token first_token + c.
  virtual void ArgMax(Matrix logits, int32_t first_token, BestLogit* best) = 0;
  // tokens[r]: of of_ranks[rank * rows + r] the token of the greatest logit; of
  // equal ones that of the lowest rank, which owns the lowest tokens.
  virtual void PickBest(const BestLogit* of_ranks, int ranks, int64_t rows,
                        int32_t* tokens) = 0;
  // Bias, penalties, and -Infinity for stop tokens before min_tokens, in place,
  // in the rows of logits [rows, vocabulary] where ChangesLogits.  Rows of
  // `undo` have UndoFloats.  REQUIRES: `tokens` is from PickBest.
  virtual void ChangeLogits(Matrix logits, const SequenceState* states,
                            const int32_t* seats, const int32_t* tokens,
                            Matrix undo) = 0;
  // For rows whose sequence has a temperature, or whose logits were changed,
  // tokens[r] = SampleToken(row r of logits [rows, vocabulary]).
  // REQUIRES: `tokens` is from PickBest.
  virtual void Sample(Matrix logits, const SequenceState* states,
                      const int32_t* seats, int32_t* tokens) = 0;
  // The same logits again as before ChangeLogits, to the bit.
  // REQUIRES: the states and `undo` are as ChangeLogits left them.
  virtual void RestoreLogits(Matrix logits, const SequenceState* states,
                             const int32_t* seats, const int32_t* tokens,
                             Matrix undo) = 0;
  // Gives every running row its next token (the forced one, if there is one),
  // appends it to the sequence's tokens, moves the state on, and tells whether
  // the sequence is finished.
  virtual void Advance(SequenceState* states, const int32_t* seats,
                       int64_t rows, const int32_t* tokens,
                       RowResult* results) = 0;
  // out[r] = the logprobs of results[r].token in row r of logits [rows,
  // vocabulary], where ReportsLogprobs, and of its state's top_logprobs; of
  // other rows kNoToken.  REQUIRES: `results` are Advance's.
  virtual void Logprobs(Matrix logits, const SequenceState* states,
                        const int32_t* seats, const RowResult* results,
                        LogprobRow* out) = 0;
  // out[r] = the logprobs of tokens[r] in row r, and of the `top` likeliest.
  virtual void PromptLogprobs(Matrix logits, const int32_t* tokens, int top,
                              LogprobRow* out) = 0;
  // results[r].kept_scores = the sum of all scores in the slots of the row's
  // sequence, over its `num_heads` heads of all layers, where WantsScores.
  // Heads without a score rule add nothing.  The same bits every time.
  // REQUIRES: `results` are Advance's.
  virtual void SumScores(const SequenceState* states, const int32_t* seats,
                         int64_t rows, int num_heads, const KvPool& pool,
                         RowResult* results) = 0;

  // Element e of the whole tensor is lane e % 4, as a signed number, of
  // CounterRandom(seed, e / 4, stream) times 2^-31 * scale.  Columns behind are
  // left alone.
  virtual void FillDummy(const DummyTensor& tensor, DType dtype, void* out,
                         int64_t stride) = 0;
  // Codes of base/dummy_codes.h, in order, `row_bytes` from row to row; what is
  // behind them is left alone.  `tensor.scale` does not count.
  virtual void FillDummyCodes(const DummyTensor& tensor, WeightFormat format,
                              void* out, int64_t row_bytes) = 0;
};

// Draws one token from logits[vocabulary] by temperature, min-p, top-k and
// top-p; `index` is the number of the generated token.  `scratch` must hold
// 2 * vocabulary elements.  Pure: the same on every rank.
// Order: temperature, then the tokens that min_p leaves, of these the top_k
// greatest, of these the smallest set whose probability reaches top_p; ties go
// to the lowest id.  Without a temperature, the greatest.
// REQUIRES: no logit is NaN or +Infinity.
int32_t SampleToken(absl::Span<const float> logits,
                    const SamplingParams& sampling, uint64_t index,
                    absl::Span<double> scratch);

}  // namespace h2o
