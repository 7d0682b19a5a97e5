// Runs step plans: a plan is launched, and its result is collected later.  On a
// GPU the next plan is launched while one runs, so that the device never waits
// for the host.  On CPUs a launch does all the work.
//
// Threads  one owner.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/rank_info.h"
#include "model/step.h"

namespace h2o {

class PlanRunner {
 public:
  // Plans that may be launched and not collected.
  static constexpr int kMaxInFlight = 2;

  // While a plan runs, look for the next one this often.
  static constexpr double kGlanceSeconds = 20e-6;

  virtual ~PlanRunner() = default;

  // What the coordinator must know of this rank.  Constant.
  virtual const RankInfo& info() const = 0;

  // Starts a plan.  REQUIRES: fewer than kMaxInFlight are in flight.
  virtual absl::Status Launch(const StepPlan& plan) = 0;
  virtual int in_flight() const = 0;
  // Whether Collect would return at once.
  virtual bool Ready() = 0;
  // Waits for the oldest plan.  REQUIRES: one is in flight.
  virtual absl::StatusOr<StepResult> Collect() = 0;

  // Whether to collect before the next plan is launched.
  bool ShouldCollect() {
    return in_flight() > 0 && (in_flight() == kMaxInFlight || Ready());
  }
};

}  // namespace h2o
