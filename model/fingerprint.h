// The fingerprint of a checkpoint: equal for equal models on every host,
// however they are cut into shards, and different if any bit of a tensor
// differs.
//
// It is the sum over all tensors of the XXH3 of a tensor's name, dtype, shape
// and bytes.  All files are read for it, so the sum over a file's tensors is
// kept in the user's cache folder and used again while path, device, inode,
// size and times of the file stay the same.  Processes of a host that ask for
// the same file at once wait for the first of them.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "model/safetensors.h"

namespace h2o {

struct FingerprintOptions {
  int num_threads = 1;
  std::string cache_directory;  // empty: nothing is kept
  // Set from another thread, it ends the reading; may be null.
  const std::atomic<bool>* stop = nullptr;
};

// 16 hex digits.
// Errors: DATA_LOSS if a file cannot be read or has changed since it was
// opened; CANCELLED after `stop`.
absl::StatusOr<std::string> Fingerprint(const Checkpoint& checkpoint,
                                        const FingerprintOptions& options);

}  // namespace h2o
