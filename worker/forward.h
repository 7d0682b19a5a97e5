// The forward pass of OPT on one rank: what happens between attention and
// attention.  Two all-reduces a layer; the residual rides in rank 0's share of
// the sum, so no rank adds it again.
//
// Threads  one owner, the step thread.
// Errors   the communicator's.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "model/opt_config.h"
#include "parallel/communicator.h"
#include "worker/shard_weights.h"

namespace h2o {

class Forward {
 public:
  // Attention over qkv [rows, 3 * local heads * head_dim] into
  // out [rows, local heads * head_dim].
  using Attend = absl::FunctionRef<void(Matrix qkv, Matrix out)>;

  // `max_rows`: most rows of any call; `max_logit_rows`: of Logits.
  // All arguments must outlive the Forward.
  static absl::StatusOr<std::unique_ptr<Forward>> Create(
      const OptConfig& config, const ShardSpec& shard,
      const ShardWeights& weights, Backend* backend, Communicator* communicator,
      int64_t max_rows, int64_t max_logit_rows);
  static int64_t WorkspaceBytes(const OptConfig& config, const ShardSpec& shard,
                                int64_t max_rows, int64_t max_logit_rows);

  // Floats of one row of hidden states.
  static int64_t HiddenStride(const OptConfig& config) {
    return AlignedStride(config.hidden_size);
  }

  // x = embeddings of tokens[i] at positions[i].
  absl::Status Embed(absl::Span<const int32_t> tokens,
                     absl::Span<const int32_t> positions, Matrix x);

  // x = decoder layer `layer` of x.
  absl::Status Layer(int layer, Matrix x, Attend attend);

  // Logits of this rank's vocabulary for the rows of x, which is overwritten.
  // The result is valid until the next call.
  Matrix Logits(Matrix x);

 private:
  Forward(const OptConfig& config, const ShardSpec& shard,
          const ShardWeights& weights, Backend* backend,
          Communicator* communicator, int64_t max_rows, int64_t max_logit_rows,
          Buffer workspace);

  // x += sum over ranks of input W^T, bias included.
  absl::Status AddRowParallel(Matrix input, const LinearWeights& weights,
                              Matrix x);

  const OptConfig& config_;
  const ShardSpec& shard_;
  const ShardWeights& weights_;
  Backend* const backend_;
  Communicator* const communicator_;
  const Buffer workspace_;
  // Views of the workspace, at the greatest number of rows.
  Matrix normed_, embedded_, qkv_, attention_, ffn_, logits_;
};

}  // namespace h2o
