// Makes a rank: checks its options, opens the device, loads the weights and
// allocates all memory, so that no step allocates any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/host_memory.h"
#include "kernels/backend.h"
#include "kv/kv_cache.h"
#include "model/model_config.h"
#include "model/rank_info.h"
#include "parallel/communicator.h"
#include "parallel/timed_communicator.h"
#include "worker/forward.h"
#include "worker/shard_options.h"
#include "worker/shard_weights.h"
#include "worker/step_workspace.h"

namespace h2o {

// The parts of one rank.  They hold references to each other: a ShardParts
// stays where it was made.
//
// Threads  one owner, the step thread; the communicator's Abort may be called
//          by any thread.
struct ShardParts {
  ShardParts(const ShardOptions& options,
             std::unique_ptr<Communicator> communicator);
  ShardParts(const ShardParts&) = delete;
  ShardParts& operator=(const ShardParts&) = delete;

  int num_local_heads() const { return shard.qkv.kv_heads; }
  // The hidden states of a prefill and of a decode step, float32 [rows,
  // hidden].
  Matrix PrefillHidden(int64_t rows) const;
  Matrix DecodeHidden(int64_t rows) const;
  // The tokens of the sequence at a seat, on the device [max_positions + 1];
  // see SequenceState::tokens.
  int32_t* TokensAt(int seat) const;
  // Enqueues the copy of all that sequence `from` stores to the pages of `to`,
  // which has the same policy and length.
  void CopyCache(uint64_t from, uint64_t to) const;
  // The biases of the sequence at a seat, on the device [kMaxLogitBiases].
  LogitBias* BiasesAt(int seat) const;
  // What Backend::ChangeLogits keeps of `rows` rows.
  Matrix LogitUndoOf(int64_t rows) const;

  const ModelConfig config;
  const ShardSpec shard;    // what this rank owns
  const int max_sequences;  // open at once
  int64_t max_rows = 0;     // of a decode step, padding included
  RankInfo info;            // filled as the parts are made

  const std::unique_ptr<Communicator> communicator;
  TimedCommunicator* timed = nullptr;  // the communicator, on CPUs
  std::unique_ptr<HostMemory> memory;  // of a CPU's rank; else null
  std::unique_ptr<Backend> backend;
  ShardWeights weights;
  std::unique_ptr<Forward> forward;
  std::unique_ptr<KvCache> cache;
  StepWorkspace workspace;
};

// `clock` must outlive the parts; `progress` (may be empty) is called with the
// fraction of the weights that is loaded.
// Errors: those of LoadShardWeights and of reading the checkpoint,
// INVALID_ARGUMENT for a device, dtype or size that is not supported,
// FAILED_PRECONDITION for a device that is missing, RESOURCE_EXHAUSTED if
// memory is short.
absl::StatusOr<std::unique_ptr<ShardParts>> MakeShardParts(
    const ShardOptions& options, std::unique_ptr<Communicator> communicator,
    const Clock* clock, std::function<void(double fraction)> progress);

}  // namespace h2o
