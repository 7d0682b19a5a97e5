// The flags of all commands that hold a model themselves.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "embedded/embedded.h"
#include "flags/flags.h"

namespace h2o {

// --model and its formats, --tp, --device, --threads and memory.
struct EmbeddedFlags {
  ModelFlags model;
  ShardFlags shard;
  int tp = 1;

  // Errors: FAILED_PRECONDITION for a device that this build has not.
  absl::StatusOr<EmbeddedOptions> Options() const;
};
void AddEmbeddedFlags(CLI::App* app, EmbeddedFlags* flags);

// Embedded::Create with a progress bar on a terminal.
absl::StatusOr<std::unique_ptr<Embedded>> LoadEmbedded(
    const EmbeddedOptions& options);

}  // namespace h2o
