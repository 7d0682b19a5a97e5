// The Engine is the coordinator without its doors: it owns the requests and
// decides which run.  Submit checks a request and queues it; a text is encoded
// meanwhile.  Placement moves the request whose turn it is to the group that
// holds it and has the most free KV pages.  One loop thread for each group
// plans steps, runs one plan ahead and streams the tokens.  With
// EngineOptions::replay, the running requests of a lost group go back to the
// queue's head, and their streams go on with the next group.
//
//   Submit -> RequestQueue (-> TextEncoder) -> Admission (pages on every rank)
//          -> BatchScheduler -> StepPlan -> WorkerGroup -> StepResult
//          -> Sequence -> EventStream -> callback
//
// Threads  every method may be called by any thread.  No callback runs under
//          the Engine's lock.  A request's events reach its callback in order,
//          one at a time.  The loop thread of its group delivers them, so a
//          callback that blocks delays the streams of its group, and nothing
//          else.  A thread of the Engine's own delivers the last events of
//          requests that are cancelled, expire or cannot be encoded.
//          A callback may call every method but Drain and the destructor, which
//          would wait for it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/admission_answer.h"
#include "api/engine_options.h"
#include "api/request.h"
#include "base/clock.h"
#include "base/monitor.h"
#include "coordinator/arrival.h"
#include "coordinator/engine_counters.h"
#include "coordinator/event_stream.h"
#include "coordinator/group_status.h"
#include "coordinator/placement.h"
#include "coordinator/request_queue.h"
#include "coordinator/request_spec.h"
#include "coordinator/step_history.h"
#include "coordinator/tenant_accounts.h"
#include "coordinator/tenant_status.h"
#include "coordinator/text_encoder.h"
#include "coordinator/worker_group.h"
#include "model/model_config.h"
#include "model/tokenizer.h"

namespace h2o {

class Engine {
 public:
  using Counters = EngineCounters;

  // `tokenizer` may be null: then text prompts are refused and events carry no
  // text.  `clock` and `tokenizer` must outlive the engine.  No thread starts
  // before the first AddGroup.
  // Errors: INVALID_ARGUMENT for options that cannot be.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const EngineOptions& options, const ModelConfig& config,
      const Tokenizer* tokenizer, const Clock* clock);

  // Ends all requests with UNAVAILABLE and delivers their last events.
  ~Engine();

  // Hears of a group's faults, from its loop thread.  All may be null.
  struct GroupObserver {
    // The group failed; once, after the streams that the loss ends have ended.
    std::function<void(const absl::Status& reason, const StepHistory& steps)>
        on_lost;
    // A request of it ended because its logits were not finite.
    std::function<void(const std::string& words, const StepHistory& steps)>
        on_non_finite;
  };

  // Adds a group; its loop thread starts at once.
  void AddGroup(std::unique_ptr<WorkerGroup> workers,
                GroupObserver observer = {});
  int num_groups() const;  // that are not lost
  // Geometry and pools of a group.  Errors: UNAVAILABLE if there is none.
  absl::StatusOr<GroupInfo> group_info() const;

  // Validates like Submit, ignoring the queue's length, and encodes a text.
  // Errors: all that Submit or the stream's last event would report.
  absl::Status Check(const Request& request) const;

  // Whether Submit would take the request now, and when it would start.
  // Nothing is queued.  Errors: those of Check.
  absl::StatusOr<AdmissionAnswer> CheckAdmission(const Request& request);

  // Queues a request; returns its id.  Its choices wait and start together, and
  // each runs by itself from then on; all their events go to `on_event`.
  // Errors (and then no event comes): INVALID_ARGUMENT for a bad value or a
  // request that can never fit (with the arithmetic), RESOURCE_EXHAUSTED if the
  // queue or a limit of the tenant is full, UNAVAILABLE if no group is ready or
  // the engine drains (api/refusal.h has the reason), DEADLINE_EXCEEDED if
  // there is no time left.  Errors of a text that show only when it is encoded
  // come as the stream's last event.
  absl::StatusOr<uint64_t> Submit(Request request, EventCallback on_event);

  // Gives the tokens of a text to `on_encoded`, from a thread that encodes
  // texts; or an error, at once or later: INVALID_ARGUMENT for what is not
  // UTF-8, RESOURCE_EXHAUSTED if too many texts wait, FAILED_PRECONDITION
  // without a tokenizer, UNAVAILABLE before the first group.
  void Encode(std::string text, bool add_special_tokens,
              std::function<void(absl::StatusOr<Request>)> on_encoded);

  // Ends a request, or one choice of it: what has not ended gets a last event
  // with `reason`, its pages are free within two steps.  The event may come
  // after the return.  No effect on what has ended already.
  void Cancel(uint64_t id, absl::Status reason);
  void CancelChoice(uint64_t id, int32_t choice, absl::Status reason);

  // Ends requests whose deadline has passed and queued ones that are older than
  // max_queue_seconds, keeps groups for those that have waited too long,
  // notices groups that were lost while idle or that should leave, and frees
  // what groups leave
  // behind.  The owner calls it about ten times a second.
  void Tick();

  // Refuses new requests; returns when none is left or after `grace_seconds`,
  // whichever is first (then the rest end with UNAVAILABLE).  All events have
  // been delivered when it returns.
  void Drain(double grace_seconds);

  Counters counters() const;
  // Counts what a door refused before Submit.  Takes no lock.
  void CountRefusal(Refusal reason);
  // OK if a group can admit, or why none can.
  absl::Status Ready() const;
  // OK, or that no step has ended for `longest` seconds while requests run.
  absl::Status Progress(double longest) const;
  std::vector<GroupStatus> groups() const;  // that are not lost
  std::vector<TenantStatus> tenants() const;
  TenantStatus StatusOf(const TenantRow& tenant);  // with its allowance
  double queue_age_seconds() const;  // of the oldest that waits

 private:
  struct LiveGroup;  // at work, with its thread

  Engine(const EngineOptions& options, const ModelConfig& config,
         const Tokenizer* tokenizer, const Clock* clock);

  // Whether requests are taken at all.
  absl::Status CheckOpen() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  Standing StandingOf(const Arrival& arrival, double now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // All choices of a request, behind choice 0, with ids from next_id_ on.
  std::unique_ptr<Sequence> SequenceOf(
      const Arrival& arrival, const std::shared_ptr<EventStream>& stream,
      double now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Whether the request is good and may be taken at all.
  absl::Status CheckArrival(Arrival* arrival, Sequence* sequence) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Whether the queue has room for it, and its tenant tokens.
  absl::Status CheckLimits(const Sequence& sequence, double now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  absl::Status CheckAllowance(const Sequence& sequence, double now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Of a request that would be queued, for people.
  std::string WhyItWaits(const Sequence& sequence, int64_t pages) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  void CountPool() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Whether any group could ever run the sequence, within its tenant's share.
  absl::Status CanEverFit(Sequence* sequence) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // The text of request `id` has become tokens, or cannot.
  void OnEncoded(uint64_t id, absl::StatusOr<Request> request);

  // Notices that the group should leave, and lets it go when it may.
  void LookWhetherItLeaves(LiveGroup* group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Moves requests from the queue to groups while they fit.
  void Place(double now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);

  void ExpireDeadlines() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  void ExpireQueued() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  void ExpireStranded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Refuses one that was just taken out of the queue, with all its choices.
  void RefuseQueued(Sequence* sequence, const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Ends one that was just taken out of the queue, with all its choices.
  void EndQueued(Sequence* sequence, const absl::Status& reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  void FailAll(const absl::Status& reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);

  // The thread of a group.
  void Loop(LiveGroup* group);
  // Plans, waits and streams until the engine stops or the group is released
  // (OK both), or until it is lost.
  absl::Status RunPlans(LiveGroup* group);
  std::unique_ptr<LiveGroup> Remove(LiveGroup* group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Whether a group could run the queued sequence some time.
  bool CouldRun(Sequence* sequence) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Finds the queued requests that no group could run any more, since one was
  // `lost`, and those that one can run again.
  void MarkStranded(const std::optional<absl::Status>& lost)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // Puts what a group that is gone ran back into the queue, or ends it.
  // Requests that only that group could run are stranded from now on.
  void EndWithout(LiveGroup* gone, const absl::Status& reason, Outbox* outbox)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  void Requeue(LiveGroup* gone, const absl::Status& reason, Outbox* outbox)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(monitor_);
  // The thread that delivers outbox_.
  void DeliverOutbox();

  const EngineOptions options_;
  const RequestRules rules_;
  const Clock* const clock_;

  mutable Monitor monitor_;
  TenantAccounts tenants_ ABSL_GUARDED_BY(monitor_);
  RequestQueue queue_ ABSL_GUARDED_BY(monitor_);
  Placement placement_ ABSL_GUARDED_BY(monitor_);
  std::vector<std::unique_ptr<LiveGroup>> groups_ ABSL_GUARDED_BY(monitor_);
  Counters counters_ ABSL_GUARDED_BY(monitor_);
  std::array<std::atomic<int64_t>, kRefusals> refused_at_doors_ = {};
  static constexpr uint64_t kNobody = 0;  // no request has this id
  uint64_t next_id_ ABSL_GUARDED_BY(monitor_) = 1;
  bool draining_ ABSL_GUARDED_BY(monitor_) = false;
  bool stopping_ ABSL_GUARDED_BY(monitor_) = false;

  // Events that no loop delivers, and how many threads deliver now.
  Outbox outbox_ ABSL_GUARDED_BY(monitor_);
  int delivering_ ABSL_GUARDED_BY(monitor_) = 0;

  // Threads of groups that have not ended yet, and those that have.
  int num_loops_ ABSL_GUARDED_BY(monitor_) = 0;
  std::vector<std::thread> ended_loops_ ABSL_GUARDED_BY(monitor_);

  // From the first AddGroup on; no encoder without a tokenizer.
  std::unique_ptr<TextEncoder> encoder_ ABSL_GUARDED_BY(monitor_);
  std::thread deliverer_ ABSL_GUARDED_BY(monitor_);
};

}  // namespace h2o
