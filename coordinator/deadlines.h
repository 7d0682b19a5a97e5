// The deadlines of some requests, the next one first: looking costs nothing
// while none is due.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cmath>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "coordinator/sequence.h"

namespace h2o {

class Deadlines {
 public:
  // No effect on a request without a deadline.
  void Add(const Sequence& sequence) {
    const double at = sequence.standing().deadline;
    if (std::isfinite(at)) by_time_.emplace(at, sequence.id());
  }
  void Remove(const Sequence& sequence) {
    by_time_.erase({sequence.standing().deadline, sequence.id()});
  }
  void Clear() { by_time_.clear(); }

  // The requests whose deadline has passed; they stay here until removed.
  std::vector<uint64_t> Due(double now) const {
    std::vector<uint64_t> due;
    for (const auto& [at, id] : by_time_) {
      if (at > now) break;
      due.push_back(id);
    }
    return due;
  }

 private:
  std::set<std::pair<double, uint64_t>> by_time_;
};

}  // namespace h2o
