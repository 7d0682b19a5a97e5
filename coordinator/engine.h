// The Engine is the coordinator without its doors: it owns the requests and
// decides who runs.  Submit checks a request and queues it; placement moves the
// head of the queue to the group with the most free KV pages that holds it; one
// loop thread a group plans steps, runs one plan ahead, and streams.
//
//   Submit -> queue -> Admission (pages on every rank) -> BatchScheduler
//          -> StepPlan -> WorkerGroup -> StepResult -> Sequence -> events
//
// Threads  every method may be called by any thread.  Events of one request
//          come in order, one at a time, from the loop thread of its group (or
//          from the caller of Cancel, Drain or Tick while it is queued); a
//          callback must not block and must not call the Engine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/engine_options.h"
#include "api/request.h"
#include "base/clock.h"
#include "coordinator/worker_group.h"
#include "model/model_config.h"
#include "model/tokenizer.h"

namespace h2o {

class EngineImpl;

class Engine {
 public:
  // `tokenizer` may be null: then text prompts are refused and events carry no
  // text.  `clock` and `tokenizer` must outlive the engine.
  // Errors: INVALID_ARGUMENT for options that cannot be.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const EngineOptions& options, const ModelConfig& config,
      const Tokenizer* tokenizer, const Clock* clock);
  ~Engine();

  // Adds a group; its loop thread starts at once.  `on_lost` is called once if
  // the group fails, after all its streams were ended, from the loop thread.
  void AddGroup(std::unique_ptr<WorkerGroup> group,
                std::function<void(absl::Status)> on_lost);
  int num_groups() const;  // alive
  // Geometry and pools of a living group, or UNAVAILABLE.
  absl::StatusOr<GroupInfo> group_info() const;

  // Whether Submit would take the request but for a full queue.
  // Errors: as Submit.
  absl::Status Check(const Request& request) const;

  // Queues a request; returns its id.  Errors (and then no event comes):
  // INVALID_ARGUMENT for a bad value or a request that can never fit (with the
  // arithmetic), RESOURCE_EXHAUSTED if the queue is full, UNAVAILABLE if no
  // group is ready or the engine drains.
  absl::StatusOr<uint64_t> Submit(Request request, EventCallback on_event);

  // Ends a request: its stream gets a last event with `reason`, its pages are
  // free within two steps.  No effect if it has ended already.
  void Cancel(uint64_t id, absl::Status reason);

  // Ends queued requests that are older than max_queue_seconds, and notices
  // groups that were lost while idle.  The owner calls it about ten times a
  // second.
  void Tick();

  // Refuses new requests; returns when none is left or after `grace_seconds`,
  // whichever is first (then the rest end with UNAVAILABLE).
  void Drain(double grace_seconds);

  struct Counters {
    int64_t queued = 0, running = 0, finished = 0, refused = 0;
    int64_t pages_held = 0, pages_total = 0;  // over groups and ranks
    int64_t peak_pages_held = 0;
    int64_t steps = 0;       // results received
    bool head_fits = false;  // the queue's head waits without a reason
    double slowest_layer_seconds = 0;  // of any prefill so far
    double prefill_seconds = 0;        // of the workers, summed
    double decode_seconds = 0;         // likewise
    double idle_seconds = 0;      // of devices between steps, see StepResult
    double step_seconds = 0;      // both, of the steps counted below
    double interval_seconds = 0;  // between results of busy loops, summed
    int64_t intervals = 0;        // of these
  };
  Counters counters() const;

 private:
  explicit Engine(std::unique_ptr<EngineImpl> impl);
  std::unique_ptr<EngineImpl> impl_;
};

}  // namespace h2o
