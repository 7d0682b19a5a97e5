// Decides which rank ended a group.
#include "coordinator/blame.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace h2o {
namespace {

// Whether others may be waiting for this rank.
bool IsSuspect(const RankState& rank) {
  return rank.complaint.empty() && rank.owes;
}

bool AnySuspect(const RanksState& state) {
  return std::any_of(state.ranks.begin(), state.ranks.end(), IsSuspect);
}

std::string Seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f s", seconds);
  return text;
}

Blame Complaint(const RanksState& state, int rank) {
  const RankState& r = state.ranks[rank];
  return {
      absl::UnavailableError(absl::StrCat(r.name, " reports: ", r.complaint)),
      FaultKind::kCollective, rank};
}

Blame FirstComplaint(const RanksState& state) {
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    if (!state.ranks[r].complaint.empty()) {
      return Complaint(state, static_cast<int>(r));
    }
  }
  return {};
}

Blame PastDeadline(const RanksState& state, double waited) {
  std::vector<std::string> silent;
  int first = -1;
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    if (!IsSuspect(state.ranks[r])) continue;
    silent.push_back(state.ranks[r].name);
    if (first < 0) first = static_cast<int>(r);
  }
  return {
      absl::UnavailableError(absl::StrCat(
          absl::StrJoin(silent, " and "), silent.size() == 1 ? " is" : " are",
          " silent for ", Seconds(waited), ", past the step deadline")),
      FaultKind::kSilence, first};
}

}  // namespace

double StepBegan(const RanksState& state) {
  return std::max(state.sent.front(), state.last_done);
}

Blame AfterFailure(const RanksState& state, int rank,
                   const absl::Status& failure) {
  if (!absl::IsUnavailable(failure)) {
    return {absl::UnavailableError(absl::StrCat(
                state.ranks[rank].name, " failed: ", failure.ToString())),
            FaultKind::kFailure, rank};
  }
  return AnySuspect(state) ? Blame() : Complaint(state, rank);
}

Blame AfterEnd(const RanksState& state, int rank) {
  const RankState& ended = state.ranks[rank];
  if (!ended.complaint.empty()) return Complaint(state, rank);
  return {absl::UnavailableError(absl::StrCat(ended.name, " is gone")),
          FaultKind::kExit, rank};
}

Blame CheckStep(const RanksState& state, const RankDeadlines& deadlines,
                double now) {
  if (!AnySuspect(state)) return FirstComplaint(state);
  const double waited = now - StepBegan(state);
  return waited < deadlines.step ? Blame() : PastDeadline(state, waited);
}

Blame CheckRanks(const RanksState& state, const RankDeadlines& deadlines,
                 double now) {
  const auto silent = [&](int rank, const std::string& words) {
    return Blame{
        absl::UnavailableError(absl::StrCat(state.ranks[rank].name, words)),
        FaultKind::kSilence, rank};
  };
  for (int r = 0; r < static_cast<int>(state.ranks.size()); ++r) {
    const RankState& rank = state.ranks[r];
    if (rank.loaded) continue;
    if (const double waited = now - rank.answered; waited > deadlines.answer) {
      return silent(r, absl::StrCat(" did not answer for ", Seconds(waited),
                                    " while loading"));
    }
    if (const double waited = now - rank.heard; waited > deadlines.load) {
      return silent(r, absl::StrCat(" is silent for ", Seconds(waited),
                                    " while loading"));
    }
  }
  const bool old_complaint = state.complained > 0 && state.sent.empty() &&
                             now - state.complained > deadlines.complaint;
  return old_complaint ? FirstComplaint(state) : Blame();
}

}  // namespace h2o
