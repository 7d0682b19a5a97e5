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

// `tp` workers with the same kind of device: of one host if any host has as
// many, the longest waiting first; none if there are too few.  `waiting`: the
// longest waiting first.  Returns indices into it in the order of ranks, in
// which workers of one host are neighbours.
std::vector<int> ChooseMembers(absl::Span<const WaitingWorker> waiting, int tp);

}  // namespace h2o
