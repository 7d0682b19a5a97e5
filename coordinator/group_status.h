// What people see of a group of workers.
#pragma once

#include <cstdint>
#include <vector>

namespace h2o {

struct GroupStatus {
  struct Rank {
    int64_t slabs_held = 0, slabs_total = 0;
  };
  uint64_t number = 0;
  int64_t running = 0;          // sequences
  int64_t slots_of_a_head = 0;  // that all pages give each head
  double busy_since = 0;        // its last result, or when it got work
  std::vector<Rank> ranks;
};

}  // namespace h2o
