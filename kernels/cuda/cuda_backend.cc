// Puts the CUDA kernels behind Backend.
#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/head_dim.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/queue.h"
#include "kernels/cuda/upload_ring.h"

namespace h2o {
namespace {

using cuda::ToStatus;

int Int(int64_t n) { return static_cast<int>(n); }

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const CudaBackendOptions& options)
      : options_(options), queue_(options.ordinal) {}
  ~CudaBackend() override { cudaStreamSynchronize(stream_); }

  absl::Status Init() {
    H2O_RETURN_IF_ERROR(queue_.Init());
    stream_ = queue_.stream();
    H2O_RETURN_IF_ERROR(ring_.Init());
    H2O_ASSIGN_OR_RETURN(
        products_,
        cuda::LinearProducts::Create(
            options_.cache_directory, options_.search_products,
            {options_.fp8_rows > 0 ? BatchBucket(options_.fp8_rows) : 0,
             options_.max_inputs}));
    const int64_t sums = options_.max_heads * options_.max_prompt_rows;
    H2O_ASSIGN_OR_RETURN(row_sums_, Allocate(sums * sizeof(float)));
    H2O_ASSIGN_OR_RETURN(column_sums_, Allocate(sums * sizeof(float)));
    return absl::OkStatus();
  }

  // ---- Device

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    if (bytes == 0) return Buffer();
    void* data = nullptr;
    const cudaError_t error = cudaMalloc(&data, bytes);
    if (error != cudaSuccess) {
      cudaGetLastError();  // not sticky, and told here
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot take ", bytes, " bytes of GPU memory, ",
                       FreeBytes(), " are free: ", cudaGetErrorString(error)));
    }
    Note(cudaMemsetAsync(data, 0, bytes, stream_), "memset");
    return Buffer(static_cast<std::byte*>(data), bytes,
                  [](std::byte* p, int64_t) { cudaFree(p); });
  }
  absl::StatusOr<Buffer> AllocateStaging(int64_t bytes) override {
    void* data = nullptr;
    H2O_RETURN_IF_ERROR(
        ToStatus(cudaMallocHost(&data, bytes), "pinned memory"));
    return Buffer(static_cast<std::byte*>(data), bytes,
                  [](std::byte* p, int64_t) { cudaFreeHost(p); });
  }
  int64_t FreeBytes() const override {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return static_cast<int64_t>(free);
  }
  int64_t OwnBytes() const override {
    return row_sums_.bytes() + column_sums_.bytes() +
           products_->workspace_bytes();
  }

  void UploadFrom(int64_t bytes, void* device,
                  absl::FunctionRef<void(std::byte*)> fill) override {
    H2O_CHECK(bytes <= kMaxUploadBytes) << bytes;
    queue_.UseDevice();
    std::byte* host = ring_.Take(bytes);
    fill(host);
    Note(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_),
         "upload");
    ring_.Copied(stream_);
  }
  void Download(const void* device, int64_t bytes, void* host) override {
    Note(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_),
         "download");
  }
  void CopyRows(const void* from, int64_t from_stride, void* to,
                int64_t to_stride, int64_t row_bytes, int64_t rows) override {
    Note(cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, rows,
                           cudaMemcpyDeviceToDevice, stream_),
         "copy");
  }

  int64_t Mark() override { return queue_.Mark(); }
  bool Reached(int64_t mark) override { return queue_.Reached(mark); }
  absl::Status Wait(int64_t mark) override { return queue_.Wait(mark); }
  absl::Status Synchronize() override { return queue_.Synchronize(); }
  double SecondsBetween(int64_t earlier, int64_t later) override {
    return queue_.SecondsBetween(earlier, later);
  }
  absl::Status Replay(uint64_t key,
                      absl::FunctionRef<absl::Status()> work) override {
    return queue_.Replay(key, work);
  }
  int64_t BatchBucket(int64_t rows) const override {
    for (int64_t few : {1, 2, 4, 8, 16, 24, 32}) {
      if (rows <= few) return few;
    }
    const int64_t step = rows <= 256 ? 16 : 32;
    return CeilDiv(rows, step) * step;
  }
  Stream stream() const override { return {stream_}; }

  // ---- Backend

  Formats formats() const override {
    return {options_.dtype, options_.dtype, /*packs_prompts=*/true,
            /*sums_peers=*/true, products_->takes_codes()};
  }

  void Embed(const int32_t* tokens, int32_t first_token,
             const StoredMatrix& table, Matrix out) override {
    Note(cuda::Embed(tokens, Int(out.rows), first_token, table.data, table.rows,
                     table.stride, Int(out.columns), options_.dtype, out.data,
                     out.stride, stream_),
         "Embed");
  }
  void AddPositions(Matrix delta, const int32_t* positions,
                    const StoredMatrix& table, Matrix x) override {
    Note(cuda::AddPositions(delta.data, delta.stride, positions, Int(x.rows),
                            table.data, table.stride, Int(x.columns),
                            options_.dtype, x.Row(0), x.stride, stream_),
         "AddPositions");
  }
  void AddNorm(Matrix x, const Delta& delta, const void* bias, NormPlace place,
               const LayerNormWeights& weights, Matrix out) override {
    cuda::AddNormArgs args;
    args.x = x.Row(0);
    args.x_stride = x.stride;
    args.delta = delta.mine.data;
    args.delta_stride = delta.mine.stride;
    if (delta.peers != nullptr) args.peers = *delta.peers;
    args.turn = delta.turn;
    args.way = delta.way;
    args.bias = bias;
    args.place = place;
    args.weight = weights.weight;
    args.norm_bias = weights.bias;
    args.epsilon = weights.epsilon;
    args.out = out.data;
    args.out_stride = out.stride;
    args.rows = Int(x.rows);
    args.columns = Int(x.columns);
    args.dtype = options_.dtype;
    Note(cuda::AddNorm(args, stream_), "AddNorm");
  }
  void Arrange(const StoredMatrix& weight, void* codes, void* scales) override {
    queue_.Note(products_->Arrange(weight, codes, scales, stream_));
  }
  void Linear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
              Matrix y) override {
    queue_.Note(products_->Run(x, weights.weight, weights.bias,
                               epilogue == Epilogue::kRelu, y, stream_));
    if (epilogue == Epilogue::kGelu) {
      Note(cuda::Gelu(y.data, y.stride, Int(y.rows), Int(y.columns),
                      options_.dtype, stream_),
           "Gelu");
    }
  }
  void GatherRows(Matrix x, const int32_t* rows, Matrix out) override {
    Note(cuda::GatherRows(x.data, x.stride, rows, Int(out.rows),
                          Int(out.columns), x.dtype, out.data, out.stride,
                          stream_),
         "GatherRows");
  }

  void PrefillAttention(Matrix qkv, const PromptBatch& prompts, int layer,
                        const KvPool& pool, Matrix out) override {
    cuda::PrefillAttentionArgs args;
    args.qkv = qkv.data;
    args.qkv_stride = qkv.stride;
    args.out = out.data;
    args.out_stride = out.stride;
    args.heads = prompts.heads;
    args.starts = prompts.device_starts;
    args.pool = pool;
    args.dtype = qkv.dtype;
    args.rows = Int(qkv.rows);
    args.num_prompts = Int(prompts.size());
    for (int64_t p = 0; p < prompts.size(); ++p) {
      args.max_length =
          std::max(args.max_length, prompts.starts[p + 1] - prompts.starts[p]);
    }
    args.num_heads = Int(out.columns / options_.head_dim);
    args.layer = layer;
    args.scored = prompts.scored;
    args.log_sum_exp = row_sums_.As<float>();
    args.scores = column_sums_.As<float>();
    Note(cuda::PrefillAttention(args, stream_), "PrefillAttention");
  }
  void DecodeAttention(Matrix qkv, const DecodeBatch& batch, int layer,
                       const KvPool& pool, Matrix out,
                       int32_t* evicted) override {
    cuda::DecodeAttentionArgs args;
    args.qkv = qkv.data;
    args.qkv_stride = qkv.stride;
    args.out = out.data;
    args.out_stride = out.stride;
    args.heads = batch.heads;
    args.positions = batch.positions;
    args.evicted = evicted;
    args.pool = pool;
    args.dtype = qkv.dtype;
    args.rows = Int(qkv.rows);
    args.num_heads = Int(out.columns / options_.head_dim);
    args.layer = layer;
    args.max_slots = batch.max_slots;
    args.scored = batch.scored;
    Note(cuda::DecodeAttention(args, stream_), "DecodeAttention");
  }
  void StoredPositions(const KvHead* heads, int count, const KvPool& pool,
                       int stride, uint16_t* out) override {
    Note(cuda::StoredPositions(heads, count, pool, stride, out, stream_),
         "StoredPositions");
  }
  void CopyHeads(const KvHead* from, KvHead* to, int count,
                 const KvPool& pool) override {
    Note(cuda::CopyHeads(from, to, count, pool, stream_), "CopyHeads");
  }

  void BeginDecode(const SequenceState* states, const int32_t* seats,
                   int64_t rows, int32_t* tokens, int32_t* positions,
                   KvHead** heads) override {
    Note(cuda::BeginDecode(states, seats, Int(rows), tokens, positions, heads,
                           stream_),
         "BeginDecode");
  }
  void ArgMax(Matrix logits, int32_t first_token, BestLogit* best) override {
    Note(cuda::ArgMax(logits.Row(0), logits.stride, Int(logits.rows),
                      Int(logits.columns), first_token, best, stream_),
         "ArgMax");
  }
  void PickBest(const BestLogit* of_ranks, int ranks, int64_t rows,
                int32_t* tokens) override {
    Note(cuda::PickBest(of_ranks, ranks, Int(rows), tokens, stream_),
         "PickBest");
  }
  void ChangeLogits(Matrix logits, const SequenceState* states,
                    const int32_t* seats, const int32_t* tokens,
                    Matrix undo) override {
    Note(cuda::ChangeLogits(logits.Row(0), logits.stride, Int(logits.rows),
                            states, seats, tokens, undo.Row(0), undo.stride,
                            stream_),
         "ChangeLogits");
  }
  void Sample(Matrix logits, const SequenceState* states, const int32_t* seats,
              int32_t* tokens) override {
    Note(cuda::Sample(logits.Row(0), logits.stride, Int(logits.rows),
                      Int(logits.columns), states, seats, tokens, stream_),
         "Sample");
  }
  void RestoreLogits(Matrix logits, const SequenceState* states,
                     const int32_t* seats, const int32_t* tokens,
                     Matrix undo) override {
    Note(cuda::RestoreLogits(logits.Row(0), logits.stride, Int(logits.rows),
                             states, seats, tokens, undo.Row(0), undo.stride,
                             stream_),
         "RestoreLogits");
  }
  void Advance(SequenceState* states, const int32_t* seats, int64_t rows,
               const int32_t* tokens, RowResult* results) override {
    Note(cuda::Advance(states, seats, Int(rows), tokens, results, stream_),
         "Advance");
  }
  void Logprobs(Matrix logits, const SequenceState* states,
                const int32_t* seats, const RowResult* results,
                LogprobRow* out) override {
    Note(cuda::Logprobs(logits.Row(0), logits.stride, Int(logits.rows),
                        Int(logits.columns), states, seats, results, out,
                        stream_),
         "Logprobs");
  }
  void PromptLogprobs(Matrix logits, const int32_t* tokens, int top,
                      LogprobRow* out) override {
    Note(cuda::PromptLogprobs(logits.Row(0), logits.stride, Int(logits.rows),
                              Int(logits.columns), tokens, top, out, stream_),
         "PromptLogprobs");
  }
  void SumScores(const SequenceState* states, const int32_t* seats,
                 int64_t rows, int num_heads, const KvPool& pool,
                 RowResult* results) override {
    Note(cuda::SumScores(states, seats, Int(rows), num_heads, pool, results,
                         stream_),
         "SumScores");
  }
  void FillDummy(const DummyTensor& t, DType dtype, void* out,
                 int64_t stride) override {
    Note(cuda::FillDummy(t.seed, t.stream, t.scale, t.row_begin, t.rows,
                         t.column_begin, t.columns, t.full_columns, dtype, out,
                         stride, stream_),
         "FillDummy");
  }
  void FillDummyCodes(const DummyTensor& t, WeightFormat format, void* out,
                      int64_t row_bytes) override {
    Note(cuda::FillDummyCodes(t.seed, t.stream, format, t.row_begin, t.rows,
                              t.column_begin, t.columns, t.full_columns, out,
                              row_bytes, stream_),
         "FillDummyCodes");
  }

 private:
  // A kernel that cannot be enqueued fails the queue.
  void Note(cudaError_t error, const char* operation) {
    queue_.Note(error, operation);
  }

  const CudaBackendOptions options_;
  cuda::Queue queue_;              // destroyed last
  cudaStream_t stream_ = nullptr;  // of queue_
  cuda::UploadRing ring_;
  std::unique_ptr<cuda::LinearProducts> products_;
  Buffer row_sums_, column_sums_;  // [heads, rows] float32, of a prefill
};

absl::Status CheckSizes(const CudaBackendOptions& options) {
  H2O_RETURN_IF_ERROR(ToStatus(cudaSetDevice(options.ordinal), "device"));
  const int most_slots = cuda::MostSlots(options.head_dim);
  if (options.max_slots > most_slots) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.max_slots, " positions; on this GPU heads of ",
                     options.head_dim, " have up to ", most_slots));
  }
  if (options.hidden_size > cuda::kMostNormColumns) {
    return absl::InvalidArgumentError(
        absl::StrCat("hidden size ", options.hidden_size,
                     "; the CUDA kernels have up to ", cuda::kMostNormColumns));
  }
  if (options.embed_dim % cuda::kColumnVector != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "embeddings of ", options.embed_dim,
        "; the CUDA kernels have multiples of ", cuda::kColumnVector));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    const CudaBackendOptions& options) {
  H2O_RETURN_IF_ERROR(CheckGpu(options.ordinal));
  if (options.dtype == DType::kFloat32) {
    return absl::InvalidArgumentError(
        "dtype float32; GPUs compute in bf16 and fp16");
  }
  H2O_RETURN_IF_ERROR(CheckCudaHeadDim(options.head_dim));
  H2O_RETURN_IF_ERROR(CheckSizes(options));
  auto backend = std::make_unique<CudaBackend>(options);
  H2O_RETURN_IF_ERROR(backend->Init());
  return backend;
}

}  // namespace h2o
