// A group of workers with all that its coordinator knows of it: the pages it
// promised, the sequences it runs and the plans that are under way.
//
// Threads  not thread-safe; the Engine's lock.  Only the group's loop thread
//          calls Submit and Next of its workers, and does so without the lock.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "api/engine_options.h"
#include "coordinator/admission.h"
#include "coordinator/batch_scheduler.h"
#include "coordinator/deadlines.h"
#include "coordinator/engine_counters.h"
#include "coordinator/event_stream.h"
#include "coordinator/group_status.h"
#include "coordinator/sequence.h"
#include "coordinator/step_history.h"
#include "coordinator/tenant_accounts.h"
#include "coordinator/worker_group.h"

namespace h2o {

class GroupAtWork {
 public:
  // Groups of one `shape` charge a sequence alike.  `tenants` must outlive
  // this.
  GroupAtWork(uint64_t shape, std::unique_ptr<WorkerGroup> workers,
              const EngineOptions& options, TenantAccounts* tenants,
              double now);

  WorkerGroup& workers() { return *workers_; }
  const WorkerGroup& workers() const { return *workers_; }
  const Admission& admission() const { return admission_; }
  size_t num_running() const { return running_.size(); }
  // Whether it may be given requests.
  bool takes_requests() const { return !closed_ && workers_->status().ok(); }
  void set_closed(bool closed) { closed_ = closed; }
  bool has_seats(int64_t sequences) const {
    return static_cast<int64_t>(running_.size()) + sequences <= max_sequences_;
  }
  double busy_since() const { return busy_since_; }
  // At `now`, by the clock of the Engine.
  GroupStatus status(double now) const;
  const StepHistory& history() const { return history_; }

  // Whether the group could run the sequence, with all its choices, if it ran
  // nothing else.  Errors: INVALID_ARGUMENT with the arithmetic of the rank
  // that could not.
  absl::Status CanEverFit(Sequence* sequence) const;

  // Whether the sequence and its choices could start now: every rank has the
  // pages free.
  bool Fits(Sequence* sequence) const;

  // What it is charged here, on every rank, and in bytes.
  const SlabCharge& ChargeOf(Sequence* sequence) const;
  int64_t BytesOf(const SlabCharge& charge) const;

  // How many more sequences could start now if each cost what the last ones did
  // in the mean; of a group that has run none, all that it may run.
  int64_t HeadroomSequences() const;

  // Charges the pages and runs the sequence from the next plan on, and its
  // choices as forks of it.  REQUIRES: Fits.
  void Start(std::unique_ptr<Sequence> sequence, double now);

  // Ends one running sequence, those of one request, or all, with an error;
  // their pages are free from the next plan on.  Fail returns whether the
  // sequence ran here.
  bool Fail(uint64_t id, const absl::Status& reason, double now,
            EngineCounters* counters, Outbox* outbox);
  void FailRequest(uint64_t request_id, const absl::Status& reason, double now,
                   EngineCounters* counters, Outbox* outbox);
  void FailAll(const absl::Status& reason, double now, EngineCounters* counters,
               Outbox* outbox);

  // Ends with DEADLINE_EXCEEDED those whose deadline has passed.
  void FailExpired(double now, EngineCounters* counters, Outbox* outbox);

  // Takes all running sequences away, in the order in which they came, from
  // workers that run nothing more.
  std::vector<std::unique_ptr<Sequence>> TakeAll(double now);

  bool has_plans_in_flight() const { return plans_in_flight_ > 0; }
  // The requests that ended since the last call because logits were not finite,
  // for people; empty: none.
  std::string TakeNonFinite() { return std::exchange(non_finite_, {}); }
  // Whether there is anything to plan or to wait for.
  bool IsBusy() const { return plans_in_flight_ > 0 || scheduler_.HasWork(); }
  // Whether the workers take another plan now: plans run one ahead.
  bool HasRoomForPlan() const {
    return plans_in_flight_ < WorkerGroup::kMaxPlansInFlight;
  }
  bool CanPlan() const { return HasRoomForPlan() && scheduler_.HasWork(); }

  // The next plan, for the workers.  REQUIRES: CanPlan().
  StepPlan MakePlan(double now);

  // The oldest plan was answered: its times are counted and its tokens go to
  // the outbox.
  void Deliver(GroupResult answer, double now, EngineCounters* counters,
               Outbox* outbox);

 private:
  using Running = std::map<uint64_t, std::unique_ptr<Sequence>>::iterator;

  void StartOne(std::unique_ptr<Sequence> sequence, uint64_t fork_of,
                double now);
  // Adds the times of a result to `counters`.
  void Account(const StepResult& result, double now, EngineCounters* counters);
  // Gives one token to its sequence.
  void Accept(const TokenResult& token, StepResult* result, double now,
              EngineCounters* counters, Outbox* outbox);
  void Leave(Running it, double now);
  TenantCharge TenantChargeOf(Sequence* sequence) const;
  void TakeScores(StepResult* result, Sequence* sequence) const;

  const uint64_t shape_;
  const std::unique_ptr<WorkerGroup> workers_;
  const int max_sequences_;
  StepHistory history_;
  TenantAccounts* const tenants_;
  Admission admission_;
  BatchScheduler scheduler_;
  std::map<uint64_t, std::unique_ptr<Sequence>> running_;
  Deadlines deadlines_;  // of these
  int plans_in_flight_ = 0;
  double usual_charge_ = 0;  // slabs of the tightest rank, of recent sequences
  std::string non_finite_;
  bool closed_ = false;
  double last_result_ = -1;  // time of the last result while busy; -1: idle
  double answered_ = 0;      // the last result, or when the group came
  double busy_since_ = 0;    // the last result, or the first start behind it
};

}  // namespace h2o
