// What an operator chooses for an Engine; programs fill it from flags.
#pragma once

#include <cstdint>
#include <limits>

#include "base/kv_policy.h"

namespace h2o {

// What becomes of the running requests of a group that was lost.
enum class ReplayMode : uint8_t {
  kOff,    // they end with UNAVAILABLE
  kExact,  // they run again: the prompt is prefilled, and the tokens that were
           // streamed are decoded again, so every head keeps what it kept
  kFast,   // they run again: prompt and streamed tokens are prefilled together
};

struct EngineOptions {
  int max_queue = 1024;          // requests that wait; more: RESOURCE_EXHAUSTED
  int max_sequences = 256;       // sequences that run at once in one group
  double max_queue_seconds = 0;  // longest wait of a request; 0: no limit
  int64_t max_queue_tokens =
      0;  // that waiting requests may ask for; 0: no limit
  // A request that does not fit lets others pass it for so long; then pages are
  // gathered for it.
  double head_patience_seconds = 0.5;
  // A new prompt may delay running streams by about this long at a time.
  double stall_target_seconds = 0.05;
  // Upper bound of a step even when nobody decodes.  Keep it well under the
  // step deadline, or a busy worker looks dead.
  double longest_step_seconds = std::numeric_limits<double>::infinity();
  KvPolicyRequest default_kv_policy;  // of requests that name none
  int max_stop = 16;                  // stop strings of a request
  int32_t kv_budget_cap = 0;          // slots a head; 0: no cap
  ReplayMode replay = ReplayMode::kOff;
  // With replay: how long a request waits for a group that could run it.
  double replay_timeout_seconds = 120;
  // The requests of a group that drains may finish there for this long; then
  // they move to another one, as those of a lost group do.
  double drain_seconds = 20;
};

}  // namespace h2o
