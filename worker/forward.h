// The forward pass of OPT on one rank: what happens between attention and
// attention.  Two all-reduces a layer; every rank holds the whole residual and
// adds the same sums, so all hold the same bits (on GPUs, but for the
// projections of OPT-350m, whose products each rank chooses for itself;
// docs/design.md).
//
// Threads  one owner, the step thread.
// Errors   the communicator's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

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

  // The rows of x that matter behind the model's last attention, which needs
  // the others as keys and values only: row i of `x` is row rows[i] from there
  // on.  Without `rows`, all matter.
  struct LastRows {
    const int32_t* rows = nullptr;
    Matrix x;  // of at most max_logit_rows
  };
  // x = decoder layers [begin, end) of x.  A walk may pause between any two
  // layers with x alone held.
  absl::Status Layers(int begin, int end, Matrix x, Attend attend,
                      const LastRows& last_rows);

  // After the last layer: what the head reads of its rows, [rows, hidden],
  // valid until the next call of Layers.
  Matrix Features(int64_t rows) const { return normed_.Rows(0, rows); }
  // Row i is row rows[i] of the features; valid until the next call.
  Matrix GatherFeatures(const int32_t* rows, int64_t count);

  // Logits of this rank's vocabulary, float32 [rows, local vocabulary]; valid
  // until the next call.
  Matrix Logits(Matrix features);
  // Where the logits of `rows` features are.
  Matrix LogitsOf(int64_t rows) const { return logits_.Rows(0, rows); }

 private:
  Forward(const ModelConfig& config, const ShardSpec& shard,
          const ShardWeights& weights, Backend* backend, int64_t max_rows,
          int64_t max_logit_rows);

  // The layer from its attention on: x = what it leaves.
  absl::Status AfterAttention(int layer, Matrix attention, Matrix x);
  // *x = its last rows; returns those of `attention`.
  Matrix GoOnWith(const LastRows& last, Matrix attention, Matrix* x);

  // Where the layers are normalised: before each half, or behind it (OPT-350m).
  NormPlace place() const {
    return config_.block == Block::kPreNorm ? NormPlace::kBefore
                                            : NormPlace::kAfter;
  }

  const ModelConfig& config_;
  const ShardSpec& shard_;
  const ShardWeights& weights_;
  Backend* const backend_;
  Buffer workspace_;
  // Views of the workspace, at the greatest number of rows.
  Matrix normed_;    // what the next product reads
  Matrix delta_;     // what is to be added to x
  Matrix embedded_;  // embed_dim wide, with projections
  Matrix qkv_, attention_, ffn_;
  Matrix last_attention_;                 // of max_logit_rows
  Matrix gathered_, projected_, logits_;  // of max_logit_rows
  std::optional<RankSums> sums_;
};

}  // namespace h2o
