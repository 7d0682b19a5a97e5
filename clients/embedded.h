// The whole service without gRPC: an Engine over one LocalGroup, whose ranks
// are threads of this process, or, on several GPUs, over one ForkedGroup, whose
// ranks are processes.  What `generate`, `logits` and `bench` run on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/local_group.h"
#include "coordinator/engine.h"
#include "model/model_spec.h"
#include "model/tokenizer.h"

namespace h2o {

struct EmbeddedOptions {
  ModelSpec model;
  DeviceName device;
  int tp = 1;
  int num_threads = 0;          // 0: one a core
  int64_t kv_pool_bytes = 0;    // of each rank; 0: from memory_share
  double memory_share = 0;      // 0: the device's default
  std::string cache_directory;  // see ShardOptions
  EngineOptions engine;
};

class Embedded {
 public:
  // Loads the model, with a progress bar on a terminal.
  static absl::StatusOr<std::unique_ptr<Embedded>> Create(
      const EmbeddedOptions& options);

  // Runs all requests as fast as they fit and returns when every one is done.
  // `on_event(i, event)` hears the events of requests[i], from one thread.
  // Errors: that of the first request that failed, when a rank dies all do.
  // REQUIRES: engine().Check(request) is OK for each, and max_queue holds all.
  absl::Status Run(std::vector<Request> requests,
                   const std::function<void(int, StreamEvent)>& on_event);

  Engine& engine() { return *engine_; }
  const Engine& engine() const { return *engine_; }
  const ModelConfig& config() const { return config_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  const MemoryPlan& memory_plan() const { return memory_plan_; }
  // Of groups of several GPUs; see RankSums::times.
  const std::vector<SumTimes>& sum_times() const { return sum_times_; }
  const GroupInfo& group_info() const { return group_info_; }
  double load_seconds() const { return load_seconds_; }

 private:
  Embedded() = default;

  SteadyClock clock_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;  // null with dummy weights
  MemoryPlan memory_plan_;
  std::vector<SumTimes> sum_times_;
  GroupInfo group_info_;
  double load_seconds_ = 0;
  std::unique_ptr<Engine> engine_;  // last: uses all of the above
};

}  // namespace h2o
