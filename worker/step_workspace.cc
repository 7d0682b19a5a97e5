// Lays out the workspace of a rank in one buffer of the device.
#include "worker/step_workspace.h"

#include "base/status_macros.h"
#include "worker/plan_runner.h"

namespace h2o {
namespace {

// Cuts one buffer into parts, each at a multiple of 256 bytes.  The same code
// runs twice: without a base it adds up the size, with one it sets pointers.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T>
  void Take(int64_t count, T** out) {
    if (base_ != nullptr) *out = reinterpret_cast<T*>(base_ + used_);
    used_ += CeilDiv(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* const base_;
  int64_t used_ = 0;
};

int64_t Carve(const ModelConfig& config, const ShardSpec& shard, int64_t rows,
              int64_t sequences, std::byte* base, StepWorkspace* w) {
  Carver carver(base);
  const auto take = [&](int64_t count, auto** out) { carver.Take(count, out); };
  const int64_t positions = config.max_positions;
  const int64_t hidden = AlignedStride(config.hidden_size);
  const int64_t vocabulary =
      shard.size > 1 ? rows * AlignedStride(config.vocab_size) : 0;
  take(positions * hidden, &w->prefill_hidden);
  take(rows * hidden, &w->decode_hidden);
  take(vocabulary, &w->logit_pieces);
  take(vocabulary, &w->whole_logits);
  take(sequences, &w->states);
  take(sequences * (positions + 1), &w->sequence_tokens);
  take(sequences * kMaxLogitBiases, &w->logit_biases);
  take(rows * AlignedStride(UndoFloats(positions)), &w->logit_undo);
  take(positions, &w->prompt_tokens);
  take(positions, &w->prompt_positions);
  take(rows + 1, &w->prompt_starts);
  take(rows, &w->prompt_ends);
  take(rows, &w->prompt_seats);
  take(rows, &w->prompt_heads);
  take(rows, &w->seats);
  take(rows, &w->row_tokens);
  take(rows, &w->positions);
  take(rows, &w->heads);
  take(config.num_layers * rows * shard.kv_heads.size(), &w->evicted);
  take(shard.size * rows, &w->best);
  take(rows, &w->next_tokens);
  take(rows, &w->results);
  take(rows, &w->logprobs);
  take(shard.kv_heads.size() * positions, &w->stored);
  return carver.used();
}

int64_t CarveRings(int64_t sequences, std::byte* base, StepWorkspace* w) {
  Carver carver(base);
  const int64_t tokens = int64_t{2} * PlanRunner::kMaxInFlight * sequences;
  carver.Take(tokens, &w->fetched);
  carver.Take(tokens, &w->fetched_logprobs);
  return carver.used();
}

}  // namespace

absl::StatusOr<StepWorkspace> StepWorkspace::Create(const ModelConfig& config,
                                                    const ShardSpec& shard,
                                                    int64_t max_rows,
                                                    int64_t max_sequences,
                                                    Device* device) {
  StepWorkspace w;
  const int64_t bytes =
      Carve(config, shard, max_rows, max_sequences, nullptr, &w);
  H2O_ASSIGN_OR_RETURN(w.memory, device->Allocate(bytes));
  Carve(config, shard, max_rows, max_sequences, w.memory.data(), &w);
  const int64_t rings = CarveRings(max_sequences, nullptr, &w);
  H2O_ASSIGN_OR_RETURN(w.staging, device->AllocateStaging(rings));
  CarveRings(max_sequences, w.staging.data(), &w);
  return w;
}

}  // namespace h2o
