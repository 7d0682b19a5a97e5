// The CUDA kernels, as plain functions over device pointers.  cuda_backend.cc
// puts them behind Backend; the tests and kernel_bench call them as they are.
//
// Activations, weights and the KV cache share one 16-bit format a model
// (`dtype`: bf16 or fp16); sums, scores, softmax, residuals and logits are
// float32.  Matrices are row-major, strides are in elements, rows start at
// multiples of 16 bytes.
//
// Errors   every function returns what cudaGetLastError says of its launch.
//          Unsupported shapes are the caller's fault (base/head_dim.h:
//          CheckCudaHeadDim).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "base/sampling.h"
#include "base/weight_format.h"
#include "kernels/cuda/whole_rows.h"
#include "kernels/kv_head.h"
#include "kernels/logit_changes.h"
#include "kernels/norm_place.h"
#include "kernels/peer_sums.h"
#include "kernels/sequence_state.h"

namespace h2o::cuda {

// Of a head, the most slots that decode attention has room for on the current
// device.  REQUIRES: CheckCudaHeadDim.
int MostSlots(int head_dim);

// Rows of activations are whole vectors of so many columns.
inline constexpr int kColumnVector = 8;
// Most columns of AddNorm.
inline constexpr int kMostNormColumns = 12288;

// ---- attention -------------------------------------------------------------

// One token of each row, all heads: attends the stored slots and the token
// itself, adds the probabilities to the scores, chooses the victim and writes
// the token over it (or into a free slot), in one launch.
struct DecodeAttentionArgs {
  const void* qkv = nullptr;  // [rows, 3 * num_heads * head_dim]: q, k, v
  int64_t qkv_stride = 0;
  void* out = nullptr;  // [rows, num_heads * head_dim]
  int64_t out_stride = 0;
  // Of each row, the heads of its sequence, [layers][num_heads]; the kernel
  // takes those of `layer` and moves their num_slots.
  KvHead* const* heads = nullptr;
  const int32_t* positions = nullptr;  // [rows]; -1: out is zero, no more
  int32_t* evicted = nullptr;  // [rows, num_heads]: position given up, or -1
  KvPool pool;
  DType dtype = DType::kBFloat16;  // of qkv, out and the pages of every head
  int rows = 0;
  int num_heads = 0;
  int layer = 0;
  int max_slots = 0;   // no head of this launch stores more
  bool scored = true;  // false: no head of this launch has a score rule or a
                       // full cache to evict from, and the code for it is out
};
cudaError_t DecodeAttention(const DecodeAttentionArgs& args,
                            cudaStream_t stream);

// Causal attention over packed prompts: prompt p is rows [starts[p],
// starts[p + 1]).  Then, for every head, the column sums of the probabilities,
// what the policy keeps, and its copy into the head's slots.
struct PrefillAttentionArgs {
  const void* qkv = nullptr;  // [rows, 3 * num_heads * head_dim]: q, k, v
  int64_t qkv_stride = 0;
  void* out = nullptr;  // [rows, num_heads * head_dim]
  int64_t out_stride = 0;
  // [num_prompts]: [layers][num_heads]; null: the prompt is kept by nobody.
  KvHead* const* heads = nullptr;
  const int32_t* starts = nullptr;  // [num_prompts + 1], on the device
  KvPool pool;
  DType dtype = DType::kBFloat16;  // of qkv, out and the pages of every head
  int rows = 0;                    // of all prompts
  int num_prompts = 0;
  int max_length = 0;  // of any prompt
  int num_heads = 0;
  int layer = 0;
  bool scored = true;  // false: no head of this launch has a score rule
  // Workspace: log-sum-exp of each row (natural logarithm of the sum of
  // exp(q . k / sqrt(head_dim))), and the column sums.
  float* log_sum_exp = nullptr;  // [num_heads, rows]
  float* scores = nullptr;       // [num_heads, rows]
};
cudaError_t PrefillAttention(const PrefillAttentionArgs& args,
                             cudaStream_t stream);

// Positions that heads [0, count) store, in slot order: out [count, stride].
cudaError_t StoredPositions(const KvHead* heads, int count, const KvPool& pool,
                            int stride, uint16_t* out, cudaStream_t stream);
// What heads [0, count) of `from` store goes to the pages of those of `to`.
cudaError_t CopyHeads(const KvHead* from, KvHead* to, int count,
                      const KvPool& pool, cudaStream_t stream);

// ---- what lies between the matrix products ---------------------------------

// out[i] = table row tokens[i] - first_token, or zero where that is outside
// [0, table_rows).  All of `dtype`.
cudaError_t Embed(const int32_t* tokens, int rows, int first_token,
                  const void* table, int64_t table_rows, int64_t table_stride,
                  int columns, DType dtype, void* out, int64_t out_stride,
                  cudaStream_t stream);

// x[i] = delta[i] + table[max(positions[i], 0)].  x is float32, the rest of
// `dtype`.
cudaError_t AddPositions(const void* delta, int64_t delta_stride,
                         const int32_t* positions, int rows, const void* table,
                         int64_t table_stride, int columns, DType dtype,
                         float* x, int64_t x_stride, cudaStream_t stream);

struct AddNormArgs {
  float* x = nullptr;  // [rows, columns] float32, the residual
  int64_t x_stride = 0;
  const void* delta = nullptr;  // [rows, columns] dtype; null: add nothing
  int64_t delta_stride = 0;
  const void* bias = nullptr;  // [columns] dtype; null: none
  NormPlace place = NormPlace::kBefore;
  const float* weight = nullptr;     // [columns]; null: 1
  const float* norm_bias = nullptr;  // [columns]; null: 0
  float epsilon = 1e-5f;             // added to the variance
  void* out = nullptr;               // [rows, columns] dtype; null: not wanted
  int64_t out_stride = 0;
  int rows = 0;
  int columns = 0;
  DType dtype = DType::kBFloat16;
  // With a way other than kAllReduce, delta is this rank's addend of `turn`,
  // and the sum over all ranks is added.  kShare writes that sum over the
  // addends.
  PeerSums peers;
  int turn = 0;
  SumWay way = SumWay::kAllReduce;  // the same on every rank
};
// x += delta + bias; out = norm(x).  With a way other than kAllReduce every
// rank must make the same call; one that is missing makes the others wait until
// PeerMemory::aborted.
cudaError_t AddNorm(const AddNormArgs& args, cudaStream_t stream);

// y = gelu(y) exactly (erf), in place.
cudaError_t Gelu(void* y, int64_t stride, int rows, int columns, DType dtype,
                 cudaStream_t stream);

// out[i] = x[rows_of[i]], `dtype` or float32.
cudaError_t GatherRows(const void* x, int64_t x_stride, const int32_t* rows_of,
                       int count, int columns, DType dtype, void* out,
                       int64_t out_stride, cudaStream_t stream);

// ---- products of our own ----------------------------------------------------

// Rows of a product, with codes and with plain weights.
inline constexpr int kMostStreamedRows = 256;
inline constexpr int kMostStreamedPlainRows = 96;
// With int4 codes so many rows are rounded to whole numbers (whole_rows.h).
inline constexpr int kMostWholeRows = 16;

// Zeroed memory that products in turn share.
struct StreamedProductWorkspace {
  float* partials = nullptr;  // PartialBytes(shares)
  uint32_t* ready = nullptr;  // [shares], zero before and after every product
  int shares = 0;             // at most; as many as multiprocessors
  // Where x of int4's few rows is rounded: room for kMostWholeRows rows.
  WholeRows whole;

  static int64_t PartialBytes(int shares);
};

// Whether this device and build have StreamedProduct (sm_90a).
bool StreamsProducts();

// y [rows, outputs] = x [rows, inputs] W^T, plus bias, and ReLU of that, as
// asked.  Strides are multiples of 8, pointers to matrices of 16 bytes.  W is
// read while kernels in front still run.  The same bits every time.
struct StreamedProductArgs {
  // [outputs, inputs]; codes lie as coded_weights.cuh says.
  const void* weight = nullptr;
  WeightFormat format = WeightFormat::kBFloat16;  // plain: `dtype`
  const void* scales = nullptr;  // of codes: float [outputs]; int4: as there
  int group = 0;                 // of int4: 64 or 128 inputs
  int64_t outputs = 0, inputs = 0, weight_stride = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* bias = nullptr;  // [outputs] `dtype`; null: none
  bool relu = false;
  void* y = nullptr;
  int64_t y_stride = 0;
  int rows = 0;  // at most kMostStreamedRows, or kMostStreamedPlainRows
  DType dtype = DType::kBFloat16;
  StreamedProductWorkspace workspace;
};
cudaError_t StreamedProduct(const StreamedProductArgs& args,
                            cudaStream_t stream);

// Codes of [outputs, inputs] that lie in order (base/weight_codes.h), and of
// int4 their scales [outputs][inputs / group], brought into the order of
// coded_weights.cuh.  `inputs` is a multiple of kCodeBlock; the arranged ones
// have outputs up to a multiple of kCodeBlock, zero behind the last.
struct ArrangeCodesArgs {
  const void* codes = nullptr;
  const void* scales = nullptr;  // of int4
  WeightFormat format = WeightFormat::kInt4;
  int group = 0;  // of int4
  int64_t outputs = 0, inputs = 0;
  void* arranged = nullptr;
  void* arranged_scales = nullptr;  // of int4
};
cudaError_t ArrangeCodes(const ArrangeCodesArgs& args, cudaStream_t stream);

// codes[r] = row r of x as e4m3, scales[r] its scale (base/fp8_rows.h).  Rows
// of codes are `stride` bytes, zero behind the columns; up to 65536, a
// multiple of 16.  Columns of x behind the last, up to a multiple of 8, are zero.
struct RoundRowsArgs {
  const void* x = nullptr;  // [rows, columns] `dtype`
  int64_t x_stride = 0;
  int rows = 0;
  int64_t columns = 0;
  DType dtype = DType::kBFloat16;
  uint8_t* codes = nullptr;
  int64_t stride = 0;
  float* scales = nullptr;
};
cudaError_t RoundRows(const RoundRowsArgs& args, cudaStream_t stream);

// ---- tokens ----------------------------------------------------------------

// Row r runs sequence states[seats[r]]: its token, its position and its heads.
// A row with seat -1, and one whose sequence is finished, gets token 0,
// position -1 and no heads.
cudaError_t BeginDecode(const SequenceState* states, const int32_t* seats,
                        int rows, int32_t* tokens, int32_t* positions,
                        KvHead** heads, cudaStream_t stream);

// best[r]: the greatest logit of row r; of equal ones the lowest column; of a
// row with NaN or +Infinity, kNoToken.
cudaError_t ArgMax(const float* logits, int64_t stride, int rows, int columns,
                   int first_token, BestLogit* best, cudaStream_t stream);

// tokens[r]: the token of the greatest of of_ranks[rank * rows + r]; of equal
// logits that of the lowest rank, which owns the lowest tokens.
cudaError_t PickBest(const BestLogit* of_ranks, int ranks, int rows,
                     int32_t* tokens, cudaStream_t stream);

// Bias, penalties and banned stop tokens, in place, of the rows where
// ChangesLogits (kernels/logit_changes.h); and the same logits again as before,
// to the bit.  Each row has undo_stride >= UndoFloats of `undo`.
cudaError_t ChangeLogits(float* logits, int64_t stride, int rows,
                         const SequenceState* states, const int32_t* seats,
                         const int32_t* tokens, float* undo,
                         int64_t undo_stride, cudaStream_t stream);
cudaError_t RestoreLogits(float* logits, int64_t stride, int rows,
                          const SequenceState* states, const int32_t* seats,
                          const int32_t* tokens, float* undo,
                          int64_t undo_stride, cudaStream_t stream);

// tokens[r] = a draw from logits row r for sequences with a temperature, the
// greatest where logits were changed; the others' are left alone.  Order as
// kernels/backend.h's SampleToken: with a top_p by descending logit, ties by
// id, else by id.  Weights are summed as
// integers of 2^-40, so the order of threads changes nothing and all ranks
// draw alike.
cudaError_t Sample(const float* logits, int64_t stride, int rows,
                   int vocabulary, const SequenceState* states,
                   const int32_t* seats, int32_t* tokens, cudaStream_t stream);

// Gives every live row its next token (the forced one, if there is one),
// appends it to the sequence's tokens, moves the state on and tells whether the
// sequence is finished: results[r]; a row that did not run gets token -1.
cudaError_t Advance(SequenceState* states, const int32_t* seats, int rows,
                    const int32_t* tokens, RowResult* results,
                    cudaStream_t stream);

// out[r]: the logprobs of results[r].token in row r, and of the top_logprobs
// likeliest tokens, where ReportsLogprobs; of other rows chosen.token is
// kNoToken.
cudaError_t Logprobs(const float* logits, int64_t stride, int rows,
                     int vocabulary, const SequenceState* states,
                     const int32_t* seats, const RowResult* results,
                     LogprobRow* out, cudaStream_t stream);
// The same of tokens[r], and of the `top` likeliest, of every row.
cudaError_t PromptLogprobs(const float* logits, int64_t stride, int rows,
                           int vocabulary, const int32_t* tokens, int top,
                           LogprobRow* out, cudaStream_t stream);

// results[r].kept_scores = the sum of the scores of the num_heads heads (all
// layers') of the row's sequence, where WantsScores.  A fixed order of
// addition.
cudaError_t SumScores(const SequenceState* states, const int32_t* seats,
                      int rows, int num_heads, const KvPool& pool,
                      RowResult* results, cudaStream_t stream);

// ---- weights ---------------------------------------------------------------

// Elements [row_begin .. + rows) x [column_begin .. + columns) of a dummy
// tensor of row length full_columns: element e is (int32 lane e % 4 of
// CounterRandom(seed, e / 4, name_hash)) * 2^-31 * scale, rounded to `dtype`;
// the columns behind, up to `stride`, are left alone.
cudaError_t FillDummy(uint64_t seed, uint64_t name_hash, float scale,
                      int64_t row_begin, int64_t rows, int64_t column_begin,
                      int64_t columns, int64_t full_columns, DType dtype,
                      void* out, int64_t stride, cudaStream_t stream);
// The same of codes (base/dummy_codes.h), in order, `row_bytes` from row to
// row.  Columns begin and end with a whole call of CounterRandom: 128 bits.
cudaError_t FillDummyCodes(uint64_t seed, uint64_t name_hash,
                           WeightFormat format, int64_t row_begin, int64_t rows,
                           int64_t column_begin, int64_t columns,
                           int64_t full_columns, void* out, int64_t row_bytes,
                           cudaStream_t stream);

}  // namespace h2o::cuda
