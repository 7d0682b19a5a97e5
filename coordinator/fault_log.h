// The faults of a coordinator's life, for metrics and status.
//
// Threads  any.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "coordinator/fault.h"

namespace h2o {

class FaultLog {
 public:
  struct Count {
    int group = 0, rank = -1;
    FaultKind kind = FaultKind::kExit;
    int64_t count = 0;
  };

  void Add(Fault fault);

  // By group, rank and kind.  There are no more than the coordinator has ranks
  // times kinds.
  std::vector<Count> counts() const;
  std::optional<Fault> last() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::tuple<int, int, FaultKind>, int64_t> counts_;
  std::optional<Fault> last_;
};

}  // namespace h2o
