// Writes a model's tensors in Hugging Face's safetensors format: into
// model.safetensors or, if that would be larger than a limit, into shards with
// an index.  All names and sizes are known before the first byte, so nothing is
// kept in memory.
//
// Threads  not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/new_file.h"
#include "model/safetensors_header.h"

namespace h2o {

class CheckpointWriter {
 public:
  static constexpr int64_t kMaxShardBytes = 5'000'000'000;

  // Tensors lie in the order of `tensors`.
  CheckpointWriter(std::string directory, std::vector<PlannedTensor> tensors,
                   int64_t max_shard_bytes = kMaxShardBytes);

  // Appends to the tensor that comes next, if it is not complete, and goes on
  // to the one behind it once it is.  REQUIRES: no more than it has left.
  // Errors: those of NewFile.
  absl::Status Append(absl::Span<const std::byte> bytes);
  // Writes the index, if there is one.  REQUIRES: all tensors are complete.
  absl::Status Finish();

  int64_t bytes() const;  // of all tensors

 private:
  std::string ShardName(size_t shard) const;
  absl::Status OpenShard();

  const std::string directory_;
  const std::vector<PlannedTensor> tensors_;
  std::vector<size_t>
      shard_ends_;                 // tensors of shards before, and of the shard
  size_t shard_ = 0, tensor_ = 0;  // those that come next
  int64_t appended_ = 0;           // bytes of that tensor
  NewFile file_;
};

}  // namespace h2o
