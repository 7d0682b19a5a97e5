// The whole service without gRPC: an Engine over one group.  Its ranks are
// threads of this process (LocalGroup) or, on several GPUs, forked processes
// (ForkedGroup).  The commands `generate`, `logits` and `bench` run on it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/engine.h"
#include "model/tokenizer.h"
#include "worker/shard_options.h"

namespace h2o {

struct EmbeddedOptions {
  // What the ranks have in common, see OptionsOfRank.  Create fills config and
  // max_sequences in.
  ShardOptions shard;
  EngineOptions engine;
};

class Embedded {
 public:
  // Loads the model.  `progress` (may be empty) is called with the fraction
  // loaded.  Errors: those of ConfigOf, Tokenizer::Load, Engine::Create and of
  // the group's Create.
  static absl::StatusOr<std::unique_ptr<Embedded>> Create(
      const EmbeddedOptions& options,
      std::function<void(double fraction)> progress);

  // Runs all requests and returns when each choice of each is done.  `on_event(i, event)` is
  // called with the events of requests[i], from one thread at a time.
  // Errors: that of the first request that failed; a lost rank fails all.
  // REQUIRES: engine().Check(request) is OK for each, and max_queue holds all.
  absl::Status Run(std::vector<Request> requests,
                   const std::function<void(int, StreamEvent)>& on_event);

  Engine& engine() { return *engine_; }
  const Engine& engine() const { return *engine_; }
  const ModelConfig& config() const { return config_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  const GroupInfo& group_info() const { return group_info_; }
  double load_seconds() const { return load_seconds_; }

 private:
  Embedded() = default;

  SteadyClock clock_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;  // null: the model has none
  GroupInfo group_info_;
  double load_seconds_ = 0;
  std::unique_ptr<Engine> engine_;  // last: uses all of the above
};

}  // namespace h2o
