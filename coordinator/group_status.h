// What people see of a group of workers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/rank_place.h"
#include "coordinator/step_history.h"

namespace h2o {

struct GroupStatus {
  struct Rank {
    int64_t slabs_held = 0, slabs_total = 0;
    RankPlace place;
    RankSteps steps;
    std::vector<float> recent_seconds;  // of its last steps, in no order
    double last_step_age = 0;  // seconds since it answered, or was ready
  };
  int number = 0;               // that people know it by
  int64_t running = 0;          // sequences
  int64_t slots_of_a_head = 0;  // that all pages give each head
  std::string leaving;          // why it drains; empty: it does not
  double busy_since = 0;        // its last result, or when it got work
  std::vector<Rank> ranks;
};

// The value below which the part `share` (0..1) of `values` lies; 0 for none.
double Percentile(std::vector<float> values, double share);

}  // namespace h2o
