// Backend: the arithmetic of one rank on one device, behind a handful of
// operations.  The CPU's is here; a CUDA twin fits behind the same words.
//
// Activations are float32 matrices whose row stride is a multiple of
// kRowAlignment elements; the columns behind the last one are zero and stay so,
// which lets kernels read whole vectors.  Weights are stored as the checkpoint
// or --dtype says and widened in registers.
//
// Threads  one owner, the step thread of the rank.  An operation may use
//          threads of its own; it returns when it is done.
// Errors   operations cannot fail: what could is checked when things are made.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/dtype.h"
#include "base/kv_page.h"
#include "base/kv_policy.h"
#include "base/sampling.h"

namespace h2o {

inline constexpr int64_t kRowAlignment = 32;
constexpr int64_t AlignedStride(int64_t columns) {
  return CeilDiv(columns, kRowAlignment) * kRowAlignment;
}

// Memory of the device: zeroed, aligned to 64 bytes, taken once, owned.
class Buffer {
 public:
  Buffer() = default;
  // Errors: RESOURCE_EXHAUSTED naming the size.
  static absl::StatusOr<Buffer> Allocate(int64_t bytes);
  Buffer(Buffer&& other) noexcept { *this = static_cast<Buffer&&>(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// A float32 matrix [rows, columns] that owns nothing.
struct Matrix {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // of rows, in elements

  float* Row(int64_t r) const { return data + r * stride; }
  Matrix Rows(int64_t begin, int64_t count) const {
    return {data + begin * stride, count, columns, stride};
  }
  Matrix Columns(int64_t begin, int64_t count) const {
    return {data + begin, rows, count, stride};
  }
};

// A stored matrix [rows, columns], read only: rows are outputs of a linear
// layer, or entries of an embedding table.  Padding columns are zero.
struct StoredMatrix {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // AlignedStride(columns)

  const void* Row(int64_t r) const {
    return static_cast<const std::byte*>(data) + r * stride * SizeOf(dtype);
  }
};

enum class Epilogue : uint8_t { kNone, kRelu, kGelu };

// y = epilogue(x W^T + bias), added to what `y` holds if `accumulate`.
struct LinearWeights {
  StoredMatrix weight;          // [outputs, inputs]
  const float* bias = nullptr;  // [outputs]; null: none
};

struct LayerNormWeights {
  const float* weight = nullptr;  // [columns]; null: 1
  const float* bias = nullptr;    // [columns]; null: 0
};

// What one head of one sequence stores in one layer, as the kernels see it.
// Slot i lies in page pages[i / kPageSlots] at i % kPageSlots.
struct KvHead {
  const int32_t* pages = nullptr;
  KvSlots slots;
  int32_t num_slots = 0;  // stored now; the attention kernels move it
};

struct KvPool {
  std::byte* data = nullptr;
  KvPageLayout layout;
  std::byte* Page(int32_t page) const {
    return data + page * layout.PageBytes();
  }
};

// Best logit of a row among the columns of one rank.
struct BestLogit {
  float logit;
  int32_t token;
};

// One token to be drawn: number `index` of a request's generated tokens.
struct Draw {
  SamplingParams sampling;
  uint64_t index = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // out[i] = table row of tokens[i] - first_token, or zero where that is
  // outside the table (another rank has it).
  virtual void Embed(absl::Span<const int32_t> tokens, int32_t first_token,
                     const StoredMatrix& table, Matrix out) = 0;
  // x[i] += table row positions[i].
  virtual void AddRows(absl::Span<const int32_t> positions,
                       const StoredMatrix& table, Matrix x) = 0;
  // OPT's epsilon, 1e-5.  `out` may be `x`.
  virtual void LayerNorm(Matrix x, const LayerNormWeights& weights,
                         Matrix out) = 0;
  virtual void Linear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                      bool accumulate, Matrix y) = 0;

  // Causal attention over a whole prompt.  qkv [length, 3 * heads * head_dim]:
  // queries, keys, values, heads side by side.  Fills each head's slots with
  // what its policy keeps, scores included.  out [length, heads * head_dim].
  virtual void PrefillAttention(Matrix qkv, absl::Span<KvHead> heads,
                                const KvPool& pool, Matrix out) = 0;

  // One token of each of qkv.rows sequences: row r is at position positions[r]
  // and belongs to heads[r], an array of `num_heads`.  Attends the stored slots
  // and the token itself, updates scores, and writes the token into a free slot
  // or over the victim.  evicted [rows, num_heads]: the victim's position or
  // -1.
  virtual void DecodeAttention(Matrix qkv, absl::Span<KvHead* const> heads,
                               int num_heads,
                               absl::Span<const int32_t> positions,
                               const KvPool& pool, Matrix out,
                               absl::Span<int32_t> evicted) = 0;

  // The greatest logit of each row; of equal ones the lowest column.
  // Column c stands for token first_token + c.
  virtual void ArgMax(Matrix logits, int32_t first_token,
                      absl::Span<BestLogit> best) = 0;

  // tokens[r] = SampleToken(row r of logits [draws.size(), vocabulary]).
  virtual void Sample(Matrix logits, absl::Span<const Draw> draws,
                      absl::Span<int32_t> tokens) = 0;
};

// Draws one token from logits[vocabulary] by temperature, top-k and top-p;
// `index` is the number of the generated token.  `scratch` must hold
// 2 * vocabulary elements.  Pure: the same on every rank.
// Order: temperature, then the top_k greatest, then the smallest set whose
// probability reaches top_p; ties go to the lowest id.
int32_t SampleToken(absl::Span<const float> logits,
                    const SamplingParams& sampling, uint64_t index,
                    absl::Span<double> scratch);

}  // namespace h2o
