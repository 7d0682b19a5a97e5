// Counts faults and remembers the last one.
#include "coordinator/fault_log.h"

#include <utility>

namespace h2o {

const char* Name(FaultKind kind) {
  constexpr const char* kNames[kFaultKinds] = {
      "exit", "silence", "checksum", "collective",
      "nan",  "failure", "protocol"};
  return kNames[static_cast<size_t>(kind)];
}

void FaultLog::Add(Fault fault) {
  std::lock_guard lock(mutex_);
  ++counts_[{fault.group, fault.rank, fault.kind}];
  last_ = std::move(fault);
}

std::vector<FaultLog::Count> FaultLog::counts() const {
  std::lock_guard lock(mutex_);
  std::vector<Count> counts;
  for (const auto& [of, count] : counts_) {
    const auto& [group, rank, kind] = of;
    counts.push_back({group, rank, kind, count});
  }
  return counts;
}

std::optional<Fault> FaultLog::last() const {
  std::lock_guard lock(mutex_);
  return last_;
}

}  // namespace h2o
