#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cgroup.h"
#include "base/kv_policy.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "kernels/cpu/add_norm.h"
#include "kernels/cpu/decode_attention.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/prefill_attention.h"
#include "kernels/cpu/small_linear.h"
#include "kernels/cpu/stored_slots.h"
#include "kernels/cpu/tokens.h"

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
constexpr int64_t kBFloat16Rows = 8;

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

// Bytes this process could still take: what the machine has (/proc/meminfo),
// and no more than its control group may; 0 if unknown.
int64_t AvailableMemoryBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") {
      return std::min(kib * 1024, ReadCgroupLimits().memory_left);
    }
    file.ignore(1 << 10, '\n');
  }
  return 0;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuBackendOptions& options, Buffer scratch)
      : options_(options),
        bf16_products_(options.bf16_products && BFloat16Product::Supported()),
        thread_scratch_(ScratchOf(options)),
        scratch_(std::move(scratch)),
        products_(options.num_threads),
        pool_(options.num_threads),
        clock_(options.clock == nullptr ? &steady_clock_ : options.clock),
        marks_(kMaxMarks) {}

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    return Buffer::AllocateHost(bytes);
  }
  absl::StatusOr<Buffer> AllocateStaging(int64_t bytes) override {
    return Buffer::AllocateHost(bytes);
  }
  int64_t FreeBytes() const override { return AvailableMemoryBytes(); }
  int64_t OwnBytes() const override { return scratch_.bytes(); }
  void UploadFrom(int64_t, void* device,
                  absl::FunctionRef<void(std::byte*)> fill) override {
    fill(static_cast<std::byte*>(device));
  }
  void Download(const void* device, int64_t bytes, void* host) override {
    std::memcpy(host, device, bytes);
  }
  void CopyRows(const void* from, int64_t from_stride, void* to,
                int64_t to_stride, int64_t row_bytes, int64_t rows) override {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(static_cast<std::byte*>(to) + r * to_stride,
                  static_cast<const std::byte*>(from) + r * from_stride,
                  row_bytes);
    }
  }
  int64_t Mark() override {
    marks_[next_mark_ % kMaxMarks] = clock_->Now();
    return next_mark_++;
  }
  bool Reached(int64_t) override { return true; }
  absl::Status Wait(int64_t) override { return absl::OkStatus(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  double SecondsBetween(int64_t earlier, int64_t later) override {
    return marks_[later % kMaxMarks] - marks_[earlier % kMaxMarks];
  }
  absl::Status Replay(uint64_t,
                      absl::FunctionRef<absl::Status()> work) override {
    return work();
  }
  int64_t BatchBucket(int64_t rows) const override { return rows; }
  Stream stream() const override { return {}; }

  Formats formats() const override { return {}; }

  void Embed(const int32_t* tokens, int32_t first_token,
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

  void AddPositions(Matrix delta, const int32_t* positions,
                    const StoredMatrix& table, Matrix x) override {
    float* row = Scratch(0);
    for (int64_t i = 0; i < x.rows; ++i) {
      const int64_t position = std::max(positions[i], 0);
      WidenRows(table, position, position + 1, row);
      const float* add = delta.Row(i);
      float* out = x.Row(i);
      for (int64_t j = 0; j < x.columns; ++j) out[j] = add[j] + row[j];
    }
  }

  void AddNorm(Matrix x, const Delta& delta, const void* bias, NormPlace place,
               const LayerNormWeights& weights, Matrix out) override {
    H2O_CHECK(delta.peers == nullptr) << "formats() says so";
    const float* add = static_cast<const float*>(bias);
    pool_.ParallelFor(x.rows, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        float* row = x.Row(r);
        if (delta.mine) AddTo(row, delta.mine.Row(r), add, x.columns);
        if (place == NormPlace::kAfter) {
          LayerNormRow(row, weights, x.columns, row);
        }
        if (!out) continue;
        if (place == NormPlace::kBefore) {
          LayerNormRow(row, weights, x.columns, out.Row(r));
        } else {
          std::copy_n(row, x.columns, out.Row(r));
        }
      }
    });
  }

  void Linear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
              Matrix y) override {
    const bool bf16 =
        bf16_products_ && weights.weight.dtype == DType::kBFloat16;
    if (bf16 && x.rows >= kBFloat16Rows) {
      LinearBFloat16(x, weights, epilogue, y);
    } else if (x.rows <= kSmallRows) {
      // Slices of whole register tiles, a few a thread to even out the noise.
      const int64_t grain =
          CeilDiv(weights.weight.rows, 4 * 4 * pool_.num_threads()) * 4;
      pool_.ParallelFor(weights.weight.rows, grain,
                        [&](int64_t begin, int64_t end, int) {
                          SmallLinear(x, weights, epilogue, begin, end, y);
                        });
    } else {
      LinearFloat32(x, weights, epilogue, y);
    }
  }

  void GatherRows(Matrix x, const int32_t* rows, Matrix out) override {
    for (int64_t i = 0; i < out.rows; ++i) {
      std::copy_n(x.Row(rows[i]), x.columns, out.Row(i));
    }
  }

  void PrefillAttention(Matrix qkv, const PromptBatch& prompts, int layer,
                        const KvPool& pool, Matrix out) override {
    const int64_t num_heads = out.columns / options_.head_dim;
    for (int64_t p = 0; p < prompts.size(); ++p) {
      if (prompts.heads[p] == nullptr) continue;
      const int64_t begin = prompts.starts[p];
      const int64_t length = prompts.starts[p + 1] - begin;
      AttendPrompt(qkv.Rows(begin, length),
                   {prompts.heads[p] + layer * num_heads, size_t(num_heads)},
                   pool, out.Rows(begin, length));
    }
  }

  void DecodeAttention(Matrix qkv, const DecodeBatch& batch, int layer,
                       const KvPool& pool, Matrix out,
                       int32_t* evicted) override {
    const int d = pool.layout.head_dim;
    const int64_t num_heads = out.columns / d;
    pool_.ParallelFor(
        qkv.rows * num_heads, 1, [&](int64_t begin, int64_t end, int thread) {
          float* probabilities = Scratch(thread) + thread_scratch_.scores;
          for (int64_t i = begin; i < end; ++i) {
            const int64_t row = i / num_heads, h = i % num_heads;
            float* to = out.Row(row) + h * d;
            if (batch.positions[row] < 0) {
              std::fill_n(to, d, 0.0f);
              evicted[i] = -1;
              continue;
            }
            const float* q = qkv.Row(row) + h * d;
            const float* k = q + num_heads * d;
            const float* v = k + num_heads * d;
            evicted[i] = DecodeHead(q, k, v, batch.positions[row], pool,
                                    batch.heads[row] + layer * num_heads + h,
                                    probabilities, to);
          }
        });
  }

  void StoredPositions(const KvHead* heads, int count, const KvPool& pool,
                       int stride, uint16_t* out) override {
    for (int h = 0; h < count; ++h) {
      CopyPositions(pool, heads[h], out + int64_t{h} * stride);
    }
  }

  void BeginDecode(const SequenceState* states, const int32_t* slots,
                   int64_t rows, int32_t* tokens, int32_t* positions,
                   KvHead** heads) override {
    for (int64_t r = 0; r < rows; ++r) {
      const bool runs = Runs(states, slots[r]);
      tokens[r] = runs ? states[slots[r]].token : 0;
      positions[r] = runs ? states[slots[r]].position : -1;
      heads[r] = runs ? states[slots[r]].heads : nullptr;
    }
  }

  void ArgMax(Matrix logits, int32_t first_token, BestLogit* best) override {
    pool_.ParallelFor(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t c = ArgMaxRow(logits.Row(r), logits.columns);
        best[r] = {logits.Row(r)[c], static_cast<int32_t>(first_token + c)};
      }
    });
  }

  void PickBest(const BestLogit* of_ranks, int ranks, int64_t rows,
                int32_t* tokens) override {
    for (int64_t r = 0; r < rows; ++r) {
      BestLogit best = of_ranks[r];
      for (int rank = 1; rank < ranks; ++rank) {
        const BestLogit& other = of_ranks[rank * rows + r];
        if (other.logit > best.logit) best = other;
      }
      tokens[r] = best.token;
    }
  }

  void Sample(Matrix logits, const SequenceState* states, const int32_t* slots,
              int32_t* tokens) override {
    const int64_t vocabulary = logits.columns;
    pool_.ParallelFor(
        logits.rows, 1, [&](int64_t begin, int64_t end, int thread) {
          const absl::Span<double> scratch(
              reinterpret_cast<double*>(Scratch(thread)), 2 * vocabulary);
          for (int64_t r = begin; r < end; ++r) {
            if (!Runs(states, slots[r])) continue;
            const SequenceState& state = states[slots[r]];
            if (state.sampling.temperature <= 0) continue;
            tokens[r] =
                SampleToken({logits.Row(r), size_t(vocabulary)}, state.sampling,
                            state.num_generated, scratch);
          }
        });
  }

  void Advance(SequenceState* states, const int32_t* slots, int64_t rows,
               const int32_t* tokens, RowResult* results) override {
    for (int64_t r = 0; r < rows; ++r) {
      results[r] = {};
      if (!Runs(states, slots[r])) continue;
      SequenceState& s = states[slots[r]];
      s.token = s.num_generated < s.num_forced ? s.forced[s.num_generated]
                                               : tokens[r];
      ++s.num_generated;
      ++s.position;
      if (s.token == s.stop_token) {
        s.finish = FinishReason::kStop;
      } else if (s.num_generated == s.max_tokens) {
        s.finish = FinishReason::kLength;
      }
      results[r] = {s.token, s.finish};
    }
  }

  void FillDummy(const DummyTensor& t, DType dtype, void* out,
                 int64_t stride) override {
    pool_.ParallelFor(t.rows, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const uint64_t first =
            (t.row_begin + r) * t.full_columns + t.column_begin;
        r123::Philox4x32::ctr_type random = {};
        for (int64_t c = 0; c < t.columns; ++c) {
          const uint64_t i = first + c;
          if (c == 0 || i % 4 == 0) {
            random = CounterRandom(t.seed, i / 4, t.stream);
          }
          const float u =
              static_cast<float>(static_cast<int32_t>(random[i % 4])) *
              0x1.0p-31f;
          StoreElement(out, dtype, r * stride + c, u * t.scale);
        }
      }
    });
  }

 private:
  static bool Runs(const SequenceState* states, int32_t slot) {
    return slot >= 0 && states[slot].finish == FinishReason::kNone;
  }

  // x += delta + bias.
  static void AddTo(float* x, const float* delta, const float* bias,
                    int64_t columns) {
    if (bias == nullptr) {
      for (int64_t j = 0; j < columns; ++j) x[j] += delta[j];
    } else {
      for (int64_t j = 0; j < columns; ++j) x[j] += delta[j] + bias[j];
    }
  }

  void AttendPrompt(Matrix qkv, absl::Span<KvHead> heads, const KvPool& pool,
                    Matrix out) {
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
                     Matrix y) {
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
            Sgemm(true, x.rows, last - n, w.stride, x.Row(0), x.stride, rows,
                  w.stride, y.Row(0) + n, y.stride);
            FinishSlice(y, static_cast<const float*>(weights.bias), epilogue, n,
                        last);
          }
        });
  }

  void LinearBFloat16(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                      Matrix y) {
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
                                w.stride, y.Row(0) + begin, y.stride);
          FinishSlice(y, static_cast<const float*>(weights.bias), epilogue,
                      begin, end);
        });
  }

  // Queries [group * kQueriesPerGroup, ...) of one head.
  void AttendGroup(Matrix qkv, absl::Span<const KvHead> heads, int64_t head,
                   int64_t group, int thread, Matrix out) {
    const int d = options_.head_dim;
    const int64_t width = static_cast<int64_t>(heads.size()) * d;
    const float* queries = qkv.Row(0) + head * d;
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
            qkv.stride, scores, stride);
      CausalSoftmax(scores, rows, columns, stride, q + 1, scale, sums);
      Sgemm(false, rows, d, columns, scores, stride, values, qkv.stride,
            out.Row(q) + head * d, out.stride);
    }
  }

  // Adds up the column sums of one head, selects, and fills its slots.
  void KeepPrompt(Matrix qkv, absl::Span<KvHead> heads, int64_t head,
                  const KvPool& pool) {
    const int d = options_.head_dim;
    const int64_t width = static_cast<int64_t>(heads.size()) * d;
    const float* keys = qkv.Row(0) + width + head * d;
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

  const SteadyClock steady_clock_;
  const Clock* const clock_;
  std::vector<double> marks_;
  int64_t next_mark_ = 0;
};

}  // namespace

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
                       Buffer::AllocateHost(CpuBackendScratchBytes(options)));
  return std::make_unique<CpuBackend>(options, std::move(scratch));
}

}  // namespace h2o
