// Who sends the requests: this process, or generators that have joined it.
//
// Threads  one owner.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "loadtest/load_report.h"
#include "loadtest/load_run.h"
#include "loadtest/load_spec.h"
#include "loadtest/pace.h"
#include "loadtest/request_record.h"
#include "loadtest/target.h"

namespace h2o {

struct RunResult {
  std::vector<RequestRecord> records;
  std::vector<GeneratorClock> clocks;  // by generator
};

// Called a few times a second, with the seconds since the run's start.  False
// stops the run.
using LookAtRun = std::function<bool(const LoadProgress&, double seconds)>;

class Fleet {
 public:
  virtual ~Fleet() = default;

  // A run that was stopped has the records that it has got.
  virtual absl::StatusOr<RunResult> Run(const LoadSpec& spec,
                                        const LookAtRun& look) = 0;
};

// The targets of this process, made when first named.
class Targets {
 public:
  using Make = std::function<absl::StatusOr<std::unique_ptr<Target>>(
      const std::string&)>;
  explicit Targets(Make make) : make_(std::move(make)) {}

  absl::StatusOr<std::vector<Target*>> Of(
      const std::vector<std::string>& names);

 private:
  const Make make_;
  std::map<std::string, std::unique_ptr<Target>> made_;
};

// Runs one part of the plan and returns when it has ended.  `on_record` is
// called from the targets' threads, one call at a time; `look` by this one.
// Returns the last progress.
LoadProgress RunPart(const LoadSpec& spec, LoadPart part,
                     const std::vector<Target*>& targets, Pace* pace,
                     double start,
                     const std::function<void(RequestRecord)>& on_record,
                     const LookAtRun& look);

// This process alone.  `targets` and `pace` must outlive it.
std::unique_ptr<Fleet> NewLocalFleet(Targets* targets, Pace* pace);

}  // namespace h2o
