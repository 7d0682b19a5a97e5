// What an Engine counts while it runs.
#pragma once

#include <cstdint>

namespace h2o {

struct EngineCounters {
  int64_t queued = 0, running = 0, finished = 0, refused = 0;
  int64_t replays = 0;      // requests that went back into the queue
  int64_t quarantined = 0;  // requests that lost two groups
  int64_t slabs_held = 0, slabs_total = 0;  // over living groups and ranks
  int64_t peak_slabs_held = 0;              // of one group
  int64_t steps = 0;                        // results received
  bool head_fits = false;  // the queue's head waits although a group holds it
  double slowest_layer_seconds = 0;  // of any prefill so far
  double prefill_seconds = 0;        // of the workers, summed
  double decode_seconds = 0;         // likewise
  double idle_seconds = 0;           // of devices between steps, see StepResult
  double step_seconds = 0;           // both, of the steps counted below
  double interval_seconds = 0;       // between results of busy loops, summed
  int64_t intervals = 0;             // of these
};

}  // namespace h2o
