// Sends one generator's part of a plan to the targets, each request at its
// time, and records what comes.
//
// An open loop sends at the planned time, whatever the servers do.  The sender
// never waits for answers, except when LoadSpec::max_in_flight of them are
// running; that is counted.  A closed loop sends when a client of
// LoadSpec::concurrency is free, and its intended time is when that client
// became free.
//
// Threads  Run has one; answers come in the targets' threads; Stop and
//          progress by any.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/monitor.h"
#include "loadtest/arrival_plan.h"
#include "loadtest/load_spec.h"
#include "loadtest/pace.h"
#include "loadtest/request_record.h"
#include "loadtest/target.h"

namespace h2o {

// Which requests of the plan are sent here: those with index % parts == part.
struct LoadPart {
  int part = 0;
  int parts = 1;
};

struct LoadProgress {
  int64_t sent = 0, ok = 0, refused = 0, failed = 0, unfinished = 0;
  int64_t tokens = 0;
  int64_t waited = 0;  // that found max_in_flight others running

  int64_t ended() const { return ok + refused + failed + unfinished; }
  int64_t in_flight() const { return sent - ended(); }
  void Add(const LoadProgress& other);
};

class LoadRun {
 public:
  // `spec`, `targets` and `pace` must outlive the run.  `on_record` is called
  // from the targets' threads, one call at a time.  REQUIRES: a target for each
  // of spec->targets.
  LoadRun(const LoadSpec* spec, LoadPart part, std::vector<Target*> targets,
          Pace* pace, std::function<void(RequestRecord)> on_record);

  // Returns when all requests have ended.  Second 0 of the plan is `start`, of
  // the pace.
  void Run(double start);

  // Sends no more, and cuts off what runs.
  void Stop();

  LoadProgress progress() const;

 private:
  // False: the run was stopped.
  bool WaitUntil(double time) const;
  void SendOpen(const PlannedRequest& request);
  void SendClosed(const PlannedRequest& request);
  void Send(const PlannedRequest& request, std::vector<int32_t> prompt,
            double intended);
  void Finish(RequestRecord* record, double now, LoadOutcome outcome,
              const std::string& error);
  void AwaitEnds();
  int Clients() const;  // of the closed loop, here

  const LoadSpec& spec_;
  const LoadPart part_;
  const std::vector<Target*> targets_;
  Pace* const pace_;
  const std::function<void(RequestRecord)> on_record_;
  double start_ = 0;

  std::atomic<bool> stopped_ = false;
  std::atomic<bool> over_ = false;  // the closed loop's time is up
  std::atomic<bool> cutting_ = false;
  std::atomic<int64_t> tokens_ = 0;
  mutable Monitor monitor_;
  LoadProgress progress_ ABSL_GUARDED_BY(monitor_);
  // When clients of the closed loop became free, from the run's start.
  std::deque<double> free_ ABSL_GUARDED_BY(monitor_);
};

}  // namespace h2o
