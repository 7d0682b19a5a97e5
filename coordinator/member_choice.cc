// Chooses the members of a group.
#include "coordinator/member_choice.h"

#include <algorithm>

namespace h2o {
namespace {

std::string KindOf(const WaitingWorker& worker) {
  return worker.device.substr(0, worker.device.find(':'));
}

}  // namespace

std::vector<int> ChooseMembers(absl::Span<const WaitingWorker> waiting,
                               int tp) {
  for (const bool one_host : {true, false}) {
    for (const WaitingWorker& first : waiting) {
      std::vector<int> members;
      for (int i = 0; i < static_cast<int>(waiting.size()); ++i) {
        if (KindOf(waiting[i]) != KindOf(first)) continue;
        if (one_host && waiting[i].host_id != first.host_id) continue;
        members.push_back(i);
        if (static_cast<int>(members.size()) == tp) break;
      }
      if (static_cast<int>(members.size()) < tp) continue;
      std::stable_sort(members.begin(), members.end(), [&](int a, int b) {
        return waiting[a].host_id < waiting[b].host_id;
      });
      return members;
    }
  }
  return {};
}

}  // namespace h2o
