// The forward pass of one rank, all of it but attention itself, which the
// caller supplies.  Two all-reduces a layer.  Every rank holds the whole
// residual and adds the same sums, so all ranks hold the same bits.  One
// exception: on GPUs each rank chooses its own kernels for the projections of
// OPT-350m, so their last bits may differ (docs/cuda.md says why that does no
// harm).
//
// Threads  one owner, the step thread.
// Errors   the communicator's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/model_config.h"
#include "parallel/communicator.h"
#include "worker/rank_sums.h"
#include "worker/shard_weights.h"

namespace h2o {

class Forward {
 public:
  // Attention of one layer over qkv [rows, shard.qkv.columns()] into out
  // [rows, shard.qkv.query_columns()].  Called once a layer.
  using Attend = absl::FunctionRef<void(int layer, Matrix qkv, Matrix out)>;

  // `max_rows`: most rows of any call; `max_logit_rows`: of Logits.
  // All arguments must outlive the Forward.
  static absl::StatusOr<std::unique_ptr<Forward>> Create(
      const ModelConfig& config, const ShardSpec& shard,
      const ShardWeights& weights, Backend* backend, Communicator* communicator,
      int64_t max_rows, int64_t max_logit_rows);

  int64_t workspace_bytes() const {
    return workspace_.bytes() + sums_->bytes();
  }
  const RankSums& sums() const { return *sums_; }

  // x [rows, hidden] float32 = embeddings of tokens[i] at positions[i].
  absl::Status Embed(const int32_t* tokens, const int32_t* positions, Matrix x);

  // The rows that are computed behind the last layer's attention.  A prefill
  // needs the features of its prompts' last tokens only; the other rows matter
  // as keys and values, no further.  From there on, row i of `x` stands for row
  // rows[i].  Without `rows`, all rows are computed.
  struct LastRows {
    const int32_t* rows = nullptr;
    Matrix x;  // of at most max_logit_rows
  };
  // Runs layers [begin, end) over the residual x [rows, hidden], in place.  The
  // next call may go on from `end` as long as x is kept.
  absl::Status Layers(int begin, int end, Matrix x, Attend attend,
                      const LastRows& last_rows);

  // Calls see(weights, input) before each product of a layer: qkv, out, fc1,
  // fc2.  For those who calibrate a rounding; a server sets none.
  using SeeInput =
      std::function<void(const LinearWeights& weights, Matrix input)>;
  void SeeInputs(SeeInput see) { see_input_ = std::move(see); }

  // The normalized output of the last layer, [rows, hidden]; valid until the
  // next call of Layers.
  Matrix Features(int64_t rows) const { return normed_.Rows(0, rows); }
  // Row i is row rows[i] of the features; valid until the next call.
  Matrix GatherFeatures(const int32_t* rows, int64_t count);

  // Logits of this rank's vocabulary, float32 [rows, local vocabulary]; valid
  // until the next call.
  Matrix Logits(Matrix features);
  // Where Logits leaves those of `rows` features.
  Matrix LogitsOf(int64_t rows) const { return logits_.Rows(0, rows); }

 private:
  Forward(const ModelConfig& config, const ShardSpec& shard,
          const ShardWeights& weights, Backend* backend, int64_t max_rows,
          int64_t max_logit_rows);

  // The rest of a layer, from the output of its attention on: updates x and
  // leaves in normed_ what the next product reads.
  absl::Status AfterAttention(int layer, Matrix attention, Matrix x);
  // A product of a layer.
  void Product(Matrix input, const LinearWeights& weights, Epilogue epilogue,
               Matrix output);
  // Gathers the last rows of *x and of `attention`; *x then is the gathered
  // rows.  Returns those of attention.
  Matrix KeepLastRows(const LastRows& last, Matrix attention, Matrix* x);

  bool pre_norm() const { return config_.block == Block::kPreNorm; }
  // A norm and where it goes.  AddNorm adds to the residual and normalizes in
  // one pass, so what one half of a layer adds is followed by the norm that the
  // next half reads.
  struct Norm {
    NormPlace place;
    const LayerNormWeights& weights;
  };
  Norm NormAfterAttention(int layer) const;
  Norm NormAfterMlp(int layer) const;

  const ModelConfig& config_;
  const ShardSpec& shard_;
  const ShardWeights& weights_;
  Backend* const backend_;
  Buffer workspace_;
  // Views of the workspace, at the greatest number of rows.
  Matrix normed_;    // the next product's input
  Matrix delta_;     // will be added to x
  Matrix embedded_;  // embed_dim wide; empty without projections
  Matrix qkv_, attention_, ffn_;
  Matrix last_attention_;                 // of max_logit_rows
  Matrix gathered_, projected_, logits_;  // of max_logit_rows
  std::optional<RankSums> sums_;
  SeeInput see_input_;  // empty: nobody looks
};

}  // namespace h2o
