// How `serve` judges processes that end and groups that are lost: which process
// is to blame, and how many workers are left.  Pure functions.
//
// `serve` learns of a loss in two ways, in any order: the coordinator reports
// which rank its group lost, and a process ends.  So it waits a moment until it
// has both.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "clients/child_process.h"

namespace h2o {

struct Loss {
  double noticed = 0;  // when, by the clock of the caller
  std::string group;   // the coordinator's report of it; empty: none so far
};

// The process whose end explains the loss: one that the report names; else one
// that a signal killed; else, without a report, the first that ended badly.  A
// neighbour that ended because its group was over is not to blame.  Null: none.
const Child* CulpritOf(const std::vector<Child>& children, const Loss& loss);

// Whether nothing more is expected: the culprit is known for certain, the
// coordinator (the first child) failed, or the loss is over a second old.
bool IsUnderstood(const std::vector<Child>& children, const Loss& loss,
                  double now);

// "group 0: rank 1 (.., pid 12) is gone; worker 1 (pid 12) was killed by .."
std::string Describe(const std::vector<Child>& children, const Loss& loss);

// The same as a status: INVALID_ARGUMENT if the culprit refused its flags or
// input, else UNAVAILABLE.
absl::Status StatusOf(const std::vector<Child>& children, const Loss& loss);

// Whether all processes whose end has not been reported yet ended as they do
// when they are told to.
bool AllEndedInOrder(const std::vector<Child>& children);

// How it went after all were told to stop.  Errors: DEADLINE_EXCEEDED naming a
// process that still runs, UNAVAILABLE naming one that failed.
absl::Status EndOfStop(const std::vector<Child>& children, bool told_twice);

// Workers that run, and whose group is not lost.
int UsableWorkers(const std::vector<Child>& children);

}  // namespace h2o
