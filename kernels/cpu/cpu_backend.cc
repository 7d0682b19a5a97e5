#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/small_linear.h"
#include "kernels/cpu/thread_pool.h"

namespace h2o {
namespace {

// Prefill attention works on tiles of kQueryTile queries; the column sums of
// kTilesPerGroup tiles are added up by one thread, then groups are added in
// order, so the sums do not depend on the number of threads.
constexpr int64_t kQueryTile = 64;
constexpr int64_t kTilesPerGroup = 4;
constexpr int64_t kQueriesPerGroup = kQueryTile * kTilesPerGroup;

// float32 products widen this many bytes of weights at a time.
constexpr int64_t kWidenBytes = 4 << 20;

// From this many rows on the bf16 units beat the float32 kernel for few rows.
constexpr int64_t kBFloat16Rows = 24;

constexpr int64_t kVectorFloats = 16;  // the widest vector of any kernel

int64_t WidenRowsPerSlice(const CpuBackendOptions& o) {
  const int64_t row_bytes = AlignedStride(o.max_inputs) * 4;
  return std::max<int64_t>(kWidenBytes / row_bytes, 16);
}

// Scratch of one thread, in floats.
struct ThreadScratch {
  int64_t scores;         // [kQueryTile, max_prompt]
  int64_t probabilities;  // [max_slots + 1]
  int64_t widened;        // [WidenRowsPerSlice, max_inputs]
  int64_t sampling;       // 2 doubles a token of the vocabulary, over the rest
  int64_t Total() const {
    return std::max(scores + probabilities + widened, sampling);
  }
};

ThreadScratch ScratchOf(const CpuBackendOptions& o) {
  return {kQueryTile * AlignedStride(o.max_prompt),
          AlignedStride(o.max_slots + 1 + kVectorFloats),
          WidenRowsPerSlice(o) * AlignedStride(o.max_inputs),
          AlignedStride(4 * o.vocab_size)};
}

int64_t NumGroups(int64_t length) { return CeilDiv(length, kQueriesPerGroup); }

int64_t ColumnSumFloats(const CpuBackendOptions& o) {
  return o.max_heads * (NumGroups(o.max_prompt) + 1) *
         AlignedStride(o.max_prompt);
}

int64_t Bf16Bytes(const CpuBackendOptions& o) {
  return o.bf16_products ? o.max_rows * AlignedStride(o.max_inputs) * 2 : 0;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuBackendOptions& options, Buffer scratch)
      : options_(options),
        bf16_products_(options.bf16_products && BFloat16Product::Supported()),
        thread_scratch_(ScratchOf(options)),
        scratch_(std::move(scratch)),
        products_(options.num_threads),
        pool_(options.num_threads) {}

  void Embed(absl::Span<const int32_t> tokens, int32_t first_token,
             const StoredMatrix& table, Matrix out) override {
    for (int64_t i = 0; i < out.rows; ++i) {
      const int64_t row = tokens[i] - first_token;
      if (row < 0 || row >= table.rows) {
        std::fill_n(out.Row(i), table.stride, 0.0f);
      } else {
        WidenRows(table, row, row + 1, out.Row(i));
      }
    }
  }

  void AddRows(absl::Span<const int32_t> positions, const StoredMatrix& table,
               Matrix x) override {
    float* row = Scratch(0);
    for (int64_t i = 0; i < x.rows; ++i) {
      WidenRows(table, positions[i], positions[i] + 1, row);
      float* out = x.Row(i);
      for (int64_t j = 0; j < x.columns; ++j) out[j] += row[j];
    }
  }

  void LayerNorm(Matrix x, const LayerNormWeights& weights,
                 Matrix out) override {
    pool_.ParallelFor(x.rows, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        LayerNormRow(x.Row(r), weights, x.columns, out.Row(r));
      }
    });
  }

  void Linear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
              bool accumulate, Matrix y) override {
    const bool bf16 =
        bf16_products_ && weights.weight.dtype == DType::kBFloat16;
    if (bf16 && x.rows >= kBFloat16Rows) {
      LinearBFloat16(x, weights, epilogue, accumulate, y);
    } else if (x.rows <= kSmallRows) {
      // Slices of whole register tiles, a few a thread to even out the noise.
      const int64_t grain =
          CeilDiv(weights.weight.rows, 4 * 4 * pool_.num_threads()) * 4;
      pool_.ParallelFor(
          weights.weight.rows, grain, [&](int64_t begin, int64_t end, int) {
            SmallLinear(x, weights, epilogue, accumulate, begin, end, y);
          });
    } else {
      LinearFloat32(x, weights, epilogue, accumulate, y);
    }
  }

  void PrefillAttention(Matrix qkv, absl::Span<KvHead> heads,
                        const KvPool& pool, Matrix out) override {
    const int64_t num_heads = static_cast<int64_t>(heads.size());
    const int64_t groups = NumGroups(qkv.rows);
    pool_.ParallelFor(num_heads * groups, 1,
                      [&](int64_t begin, int64_t end, int thread) {
                        for (int64_t i = begin; i < end; ++i) {
                          // Long groups first: they take the longest.
                          const int64_t group = groups - 1 - i / num_heads;
                          const int64_t head = i % num_heads;
                          AttendGroup(qkv, heads, head, group, thread, out);
                        }
                      });
    pool_.ParallelFor(num_heads, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t h = begin; h < end; ++h) {
        KeepPrompt(qkv, heads, h, pool);
      }
    });
  }

  void DecodeAttention(Matrix qkv, absl::Span<KvHead* const> heads,
                       int num_heads, absl::Span<const int32_t> positions,
                       const KvPool& pool, Matrix out,
                       absl::Span<int32_t> evicted) override {
    const int d = pool.layout.head_dim;
    pool_.ParallelFor(
        qkv.rows * num_heads, 1, [&](int64_t begin, int64_t end, int thread) {
          float* probabilities = Scratch(thread) + thread_scratch_.scores;
          for (int64_t i = begin; i < end; ++i) {
            const int64_t row = i / num_heads, h = i % num_heads;
            const float* q = qkv.Row(row) + h * d;
            const float* k = q + num_heads * d;
            const float* v = k + num_heads * d;
            evicted[i] =
                DecodeHead(q, k, v, positions[row], pool, heads[row] + h,
                           probabilities, out.Row(row) + h * d);
          }
        });
  }

  void ArgMax(Matrix logits, int32_t first_token,
              absl::Span<BestLogit> best) override {
    pool_.ParallelFor(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t c = ArgMaxRow(logits.Row(r), logits.columns);
        best[r] = {logits.Row(r)[c], static_cast<int32_t>(first_token + c)};
      }
    });
  }

  void Sample(Matrix logits, absl::Span<const Draw> draws,
              absl::Span<int32_t> tokens) override {
    const int64_t vocabulary = logits.columns;
    pool_.ParallelFor(
        logits.rows, 1, [&](int64_t begin, int64_t end, int thread) {
          const absl::Span<double> scratch(
              reinterpret_cast<double*>(Scratch(thread)), 2 * vocabulary);
          for (int64_t r = begin; r < end; ++r) {
            tokens[r] = SampleToken({logits.Row(r), size_t(vocabulary)},
                                    draws[r].sampling, draws[r].index, scratch);
          }
        });
  }

 private:
  float* Scratch(int thread) const {
    return reinterpret_cast<float*>(scratch_.data()) +
           thread * thread_scratch_.Total();
  }
  float* ColumnSums(int64_t head, int64_t group) const {
    const int64_t per_head = NumGroups(options_.max_prompt) + 1;
    return Scratch(options_.num_threads) +
           (head * per_head + group) * AlignedStride(options_.max_prompt);
  }
  uint16_t* Bf16Scratch() const {
    return reinterpret_cast<uint16_t*>(Scratch(options_.num_threads) +
                                       ColumnSumFloats(options_));
  }

  // y[:, begin..end) is x W^T (accumulated or not); adds what is left to add.
  static void FinishSlice(Matrix y, const float* bias, Epilogue epilogue,
                          int64_t begin, int64_t end) {
    if (bias == nullptr && epilogue == Epilogue::kNone) return;
    for (int64_t r = 0; r < y.rows; ++r) {
      float* row = y.Row(r);
      if (bias != nullptr) {
        for (int64_t n = begin; n < end; ++n) row[n] += bias[n];
      }
      if (epilogue == Epilogue::kRelu) {
        for (int64_t n = begin; n < end; ++n) row[n] = std::max(row[n], 0.0f);
      } else if (epilogue == Epilogue::kGelu) {
        for (int64_t n = begin; n < end; ++n) row[n] = Gelu(row[n]);
      }
    }
  }

  void LinearFloat32(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                     bool accumulate, Matrix y) {
    const StoredMatrix& w = weights.weight;
    const int64_t slice = std::min(
        WidenRowsPerSlice(options_),
        CeilDiv(w.rows, kVectorFloats * pool_.num_threads()) * kVectorFloats);
    pool_.ParallelFor(
        w.rows, slice, [&](int64_t begin, int64_t end, int thread) {
          float* widened = Scratch(thread) + thread_scratch_.scores +
                           thread_scratch_.probabilities;
          // A pool of one is handed everything at once: cut again.
          for (int64_t n = begin; n < end; n += slice) {
            const int64_t last = std::min(n + slice, end);
            const float* rows = static_cast<const float*>(w.Row(n));
            if (w.dtype != DType::kFloat32) {
              WidenRows(w, n, last, widened);
              rows = widened;
            }
            Sgemm(true, x.rows, last - n, w.stride, x.data, x.stride, rows,
                  w.stride, accumulate ? 1.0f : 0.0f, y.data + n, y.stride);
            FinishSlice(y, weights.bias, epilogue, n, last);
          }
        });
  }

  void LinearBFloat16(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                      bool accumulate, Matrix y) {
    const StoredMatrix& w = weights.weight;
    uint16_t* rounded = Bf16Scratch();
    pool_.ParallelFor(x.rows, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        RoundToBFloat16(x.Row(r), w.stride, rounded + r * w.stride);
      }
    });
    const int64_t slice =
        CeilDiv(w.rows, kVectorFloats * pool_.num_threads()) * kVectorFloats;
    pool_.ParallelFor(
        w.rows, slice, [&](int64_t begin, int64_t end, int thread) {
          products_[thread].Run(x.rows, end - begin, w.stride, rounded,
                                w.stride,
                                static_cast<const uint16_t*>(w.Row(begin)),
                                w.stride, accumulate, y.data + begin, y.stride);
          FinishSlice(y, weights.bias, epilogue, begin, end);
        });
  }

  // Queries [group * kQueriesPerGroup, ...) of one head.
  void AttendGroup(Matrix qkv, absl::Span<const KvHead> heads, int64_t head,
                   int64_t group, int thread, Matrix out) {
    const int d = options_.head_dim;
    const int64_t width = static_cast<int64_t>(heads.size()) * d;
    const float* queries = qkv.data + head * d;
    const float* keys = queries + width;
    const float* values = keys + width;
    const float scale = 1.0f / std::sqrt(static_cast<float>(d));
    float* scores = Scratch(thread);
    float* sums = nullptr;
    if (heads[head].slots.score_rule == ScoreRule::kSum) {
      sums = ColumnSums(head, group);
      std::fill_n(sums, AlignedStride(options_.max_prompt), 0.0f);
    }
    const int64_t group_end =
        std::min((group + 1) * kQueriesPerGroup, qkv.rows);
    for (int64_t q = group * kQueriesPerGroup; q < group_end; q += kQueryTile) {
      const int64_t rows = std::min(kQueryTile, group_end - q);
      const int64_t columns = q + rows;
      const int64_t stride = AlignedStride(columns);
      Sgemm(true, rows, columns, d, queries + q * qkv.stride, qkv.stride, keys,
            qkv.stride, 0.0f, scores, stride);
      CausalSoftmax(scores, rows, columns, stride, q + 1, scale, sums);
      Sgemm(false, rows, d, columns, scores, stride, values, qkv.stride, 0.0f,
            out.Row(q) + head * d, out.stride);
    }
  }

  // Adds up the column sums of one head, selects, and fills its slots.
  void KeepPrompt(Matrix qkv, absl::Span<KvHead> heads, int64_t head,
                  const KvPool& pool) {
    const int d = options_.head_dim;
    const int64_t width = static_cast<int64_t>(heads.size()) * d;
    const float* keys = qkv.data + width + head * d;
    const int64_t groups = NumGroups(qkv.rows);
    float* total = ColumnSums(head, groups);
    std::fill_n(total, qkv.rows, 0.0f);
    const bool scored = heads[head].slots.score_rule == ScoreRule::kSum;
    for (int64_t g = 0; scored && g < groups; ++g) {
      const float* sums = ColumnSums(head, g);
      for (int64_t i = 0; i < qkv.rows; ++i) total[i] += sums[i];
    }
    StoreKept(SelectKept(heads[head].slots, {total, size_t(qkv.rows)}), keys,
              keys + width, qkv.stride, scored ? total : nullptr, pool,
              &heads[head]);
  }

  const CpuBackendOptions options_;
  const bool bf16_products_;
  const ThreadScratch thread_scratch_;
  // Each thread's scratch, then the column sums, then rounded activations.
  const Buffer scratch_;
  std::vector<BFloat16Product> products_;  // one a thread
  ThreadPool pool_;
};

}  // namespace

absl::StatusOr<Buffer> Buffer::Allocate(int64_t bytes) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot take ", bytes, " bytes of memory: ", std::strerror(errno)));
  }
  // Weights and pools are read from end to end: huge pages save TLB misses.
  ::madvise(data, bytes, MADV_HUGEPAGE);
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

int64_t CpuBackendScratchBytes(const CpuBackendOptions& options) {
  return (ScratchOf(options).Total() * options.num_threads +
          ColumnSumFloats(options)) *
             4 +
         Bf16Bytes(options);
}

absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(
    const CpuBackendOptions& options) {
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "threads ", options.num_threads, "; it must be at least 1"));
  }
  if (options.head_dim < kHeadDimAlignment || options.head_dim > kMaxHeadDim ||
      options.head_dim % kHeadDimAlignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head_dim ", options.head_dim, "; the CPU kernels have multiples of ",
        kHeadDimAlignment, " up to ", kMaxHeadDim));
  }
  H2O_ASSIGN_OR_RETURN(Buffer scratch,
                       Buffer::Allocate(CpuBackendScratchBytes(options)));
  return std::make_unique<CpuBackend>(options, std::move(scratch));
}

}  // namespace h2o
