// The stream of requests that a LoadSpec describes.
//
// Request i is drawn from its own seed.  Who needs a part of the stream makes
// the whole plan and takes its part, so the stream is the same whatever the
// number of generators.
//
// Threads  one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "loadtest/load_spec.h"

namespace h2o {

struct PlannedRequest {
  int64_t index = 0;
  double at_seconds = 0;  // from the run's start; 0 in a closed loop
  int prompt_tokens = 1;
  int output_tokens = 1;
  bool cut = false;  // to LoadSpec::max_context
  int target = 0;
  int tenant = 0;
  int prefix = -1;  // which one its prompt begins with; -1: none

  friend bool operator==(const PlannedRequest&,
                         const PlannedRequest&) = default;
};

// When the integral of the rate reaches `area`: so a process of unit rate
// becomes one of that rate.  Infinite if it never does.
double TimeOfArea(const std::vector<RatePoint>& rate, double area);

class ArrivalPlan {
 public:
  // `spec` must outlive the plan.
  explicit ArrivalPlan(const LoadSpec* spec);

  // In the order of time.  None: the plan has ended.
  std::optional<PlannedRequest> Next();

 private:
  std::optional<double> NextTime();
  void DrawLengths(PlannedRequest* request) const;
  void DrawTenant(PlannedRequest* request) const;
  void DrawPrefix(PlannedRequest* request) const;

  const LoadSpec& spec_;
  double all_weights_ = 0;
  int64_t index_ = 0;
  double area_ = 0;  // of the process of unit rate
};

// The tokens of a request's prompt.
std::vector<int32_t> PromptOf(const LoadSpec& spec,
                              const PlannedRequest& request);

}  // namespace h2o
