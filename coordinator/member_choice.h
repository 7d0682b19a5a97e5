// Which of the workers that wait form a group.  A pure function.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"

namespace h2o {

struct WaitingWorker {
  std::string device;  // cpu, cuda:0
  std::string host_id;
};

// Chooses `tp` workers with the same kind of device, or none if there are too
// few.  All are of one host if a host has enough of them.  Workers that have
// waited longer are preferred; `waiting` lists them first.  Returns indices
// into `waiting` in the order of ranks; workers of one host have adjacent
// ranks.
std::vector<int> ChooseMembers(absl::Span<const WaitingWorker> waiting, int tp);

}  // namespace h2o
