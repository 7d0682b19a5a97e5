// Puts the CPU kernels behind Backend.
#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/head_dim.h"
#include "base/host_memory.h"
#include "base/status_macros.h"
#include "kernels/cpu/add_norm.h"
#include "kernels/cpu/decode_attention.h"
#include "kernels/cpu/dummy.h"
#include "kernels/cpu/int4_linear.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/logits.h"
#include "kernels/cpu/prefill_attention.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/team.h"
#include "kernels/cpu/tokens.h"

namespace h2o {
namespace {

using cpu::LinearProducts;
using cpu::Team;

// Scratch that is enough for any operation.
Team::Scratch ScratchOf(const CpuBackendOptions& o,
                        const LinearProducts& products) {
  const Team::Scratch linear = products.scratch();
  const Team::Scratch prefill = cpu::PrefillScratch(o.max_prompt, o.max_heads);
  return {
      .thread_floats = std::max({linear.thread_floats, prefill.thread_floats,
                                 cpu::DecodeScratchFloats(o.max_slots),
                                 cpu::SampleScratchFloats(o.vocab_size)}),
      .shared_bytes = std::max(linear.shared_bytes, prefill.shared_bytes)};
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuBackendOptions& options,
             std::unique_ptr<LinearProducts> products,
             std::unique_ptr<Team> team)
      : head_dim_(options.head_dim),
        attention_scale_(1.0f / std::sqrt(static_cast<float>(
                                    options.head_dim - options.head_padding))),
        memory_(options.memory),
        products_(std::move(products)),
        team_(std::move(team)),
        clock_(options.clock == nullptr ? &steady_clock_ : options.clock),
        marks_(kMaxMarks) {}

  // ---- Device

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    if (memory_ != nullptr) memory_->Claim(bytes);
    return Buffer::AllocateHost(bytes);
  }
  absl::StatusOr<Buffer> AllocateStaging(int64_t bytes) override {
    return Buffer::AllocateHost(bytes);
  }
  int64_t FreeBytes() const override {
    return memory_ != nullptr ? memory_->FreeBytes() : FreeHostBytes({});
  }
  int64_t OwnBytes() const override { return team_->bytes(); }
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

  // ---- Backend

  Formats formats() const override { return {.codes = true}; }

  void Embed(const int32_t* tokens, int32_t first_token,
             const StoredMatrix& table, Matrix out) override {
    cpu::Embed(tokens, first_token, table, out);
  }
  void AddPositions(Matrix delta, const int32_t* positions,
                    const StoredMatrix& table, Matrix x) override {
    cpu::AddPositions(delta, positions, table, x, team_.get());
  }
  void AddNorm(Matrix x, const Delta& delta, const void* bias, NormPlace place,
               const LayerNormWeights& weights, Matrix out) override {
    cpu::AddNorm(x, delta, bias, place, weights, out, team_.get());
  }
  void Linear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
              Matrix y) override {
    products_->Run(x, weights, epilogue, y, team_.get());
  }
  void Arrange(const StoredMatrix& weight, void* codes,
               void* /*scales*/) override {
    if (weight.format == WeightFormat::kInt4) cpu::ArrangeInt4(weight, codes);
  }
  void GatherRows(Matrix x, const int32_t* rows, Matrix out) override {
    cpu::GatherRows(x, rows, out);
  }

  void PrefillAttention(Matrix qkv, const PromptBatch& prompts, int layer,
                        const KvPool& pool, Matrix out) override {
    cpu::PrefillAttention(qkv, prompts, layer, head_dim_, attention_scale_,
                          pool, out, team_.get());
  }
  void DecodeAttention(Matrix qkv, const DecodeBatch& batch, int layer,
                       const KvPool& pool, Matrix out,
                       int32_t* evicted) override {
    cpu::DecodeAttention(qkv, batch, layer, attention_scale_, pool, out,
                         evicted, team_.get());
  }
  void StoredPositions(const KvHead* heads, int count, const KvPool& pool,
                       int stride, uint16_t* out) override {
    cpu::StoredPositions(heads, count, pool, stride, out);
  }
  void CopyHeads(const KvHead* from, KvHead* to, int count,
                 const KvPool& pool) override {
    cpu::CopyHeads(from, to, count, pool, team_.get());
  }

  void BeginDecode(const SequenceState* states, const int32_t* seats,
                   int64_t rows, int32_t* tokens, int32_t* positions,
                   KvHead** heads) override {
    cpu::BeginDecode(states, seats, rows, tokens, positions, heads);
  }
  void ArgMax(Matrix logits, int32_t first_token, BestLogit* best) override {
    cpu::ArgMax(logits, first_token, best, team_.get());
  }
  void PickBest(const BestLogit* of_ranks, int ranks, int64_t rows,
                int32_t* tokens) override {
    cpu::PickBest(of_ranks, ranks, rows, tokens);
  }
  void ChangeLogits(Matrix logits, const SequenceState* states,
                    const int32_t* seats, const int32_t* tokens,
                    Matrix undo) override {
    cpu::ChangeLogits(logits, states, seats, tokens, undo, team_.get());
  }
  void Sample(Matrix logits, const SequenceState* states, const int32_t* seats,
              int32_t* tokens) override {
    cpu::Sample(logits, states, seats, tokens, team_.get());
  }
  void RestoreLogits(Matrix logits, const SequenceState* states,
                     const int32_t* seats, const int32_t* tokens,
                     Matrix undo) override {
    cpu::RestoreLogits(logits, states, seats, tokens, undo, team_.get());
  }
  void Advance(SequenceState* states, const int32_t* seats, int64_t rows,
               const int32_t* tokens, RowResult* results) override {
    cpu::Advance(states, seats, rows, tokens, results);
  }
  void Logprobs(Matrix logits, const SequenceState* states,
                const int32_t* seats, const RowResult* results,
                LogprobRow* out) override {
    cpu::Logprobs(logits, states, seats, results, out, team_.get());
  }
  void PromptLogprobs(Matrix logits, const int32_t* tokens, int top,
                      LogprobRow* out) override {
    cpu::PromptLogprobs(logits, tokens, top, out, team_.get());
  }
  void SumScores(const SequenceState* states, const int32_t* seats,
                 int64_t rows, int num_heads, const KvPool& pool,
                 RowResult* results) override {
    cpu::SumScores(states, seats, rows, num_heads, pool, results, team_.get());
  }

  void FillDummy(const DummyTensor& tensor, DType dtype, void* out,
                 int64_t stride) override {
    cpu::FillDummy(tensor, dtype, out, stride, team_.get());
  }
  void FillDummyCodes(const DummyTensor& tensor, WeightFormat format, void* out,
                      int64_t row_bytes) override {
    cpu::FillDummyCodes(tensor, format, out, row_bytes, team_.get());
  }

 private:
  const int head_dim_;
  const float attention_scale_;  // of q . k
  HostMemory* const memory_;     // may be null
  const std::unique_ptr<LinearProducts> products_;
  const std::unique_ptr<Team> team_;

  const SteadyClock steady_clock_;
  const Clock* const clock_;
  std::vector<double> marks_;
  int64_t next_mark_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(
    const CpuBackendOptions& options) {
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "threads ", options.num_threads, "; it must be at least 1"));
  }
  H2O_RETURN_IF_ERROR(CheckCpuHeadDim(options.head_dim));
  auto products = std::make_unique<LinearProducts>(
      options.max_inputs, options.max_rows, options.bf16_products,
      options.fp8_activations, options.num_threads);
  const Team::Scratch scratch = ScratchOf(options, *products);
  if (options.memory != nullptr) {
    options.memory->Claim(scratch.Bytes(options.num_threads));
  }
  H2O_ASSIGN_OR_RETURN(
      Buffer memory, Buffer::AllocateHost(scratch.Bytes(options.num_threads)));
  auto team =
      std::make_unique<Team>(options.num_threads, scratch, std::move(memory));
  return std::make_unique<CpuBackend>(options, std::move(products),
                                      std::move(team));
}

}  // namespace h2o
