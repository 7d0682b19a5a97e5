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

absl::Status Complaint(const RankState& rank) {
  return absl::UnavailableError(
      absl::StrCat(rank.name, " reports: ", rank.complaint));
}

absl::Status FirstComplaint(const RanksState& state) {
  for (const RankState& rank : state.ranks) {
    if (!rank.complaint.empty()) return Complaint(rank);
  }
  return absl::OkStatus();
}

absl::Status PastDeadline(const RanksState& state, double waited) {
  std::vector<std::string> silent;
  for (const RankState& rank : state.ranks) {
    if (IsSuspect(rank)) silent.push_back(rank.name);
  }
  return absl::UnavailableError(absl::StrCat(
      absl::StrJoin(silent, " and "), silent.size() == 1 ? " is" : " are",
      " silent for ", Seconds(waited), ", past the step deadline"));
}

}  // namespace

double StepBegan(const RanksState& state) {
  return std::max(state.sent.front(), state.last_done);
}

absl::Status AfterFailure(const RanksState& state, int rank,
                          const absl::Status& failure) {
  const RankState& failed = state.ranks[rank];
  if (!absl::IsUnavailable(failure)) {
    return absl::UnavailableError(
        absl::StrCat(failed.name, " failed: ", failure.ToString()));
  }
  return AnySuspect(state) ? absl::OkStatus() : Complaint(failed);
}

absl::Status AfterEnd(const RankState& rank) {
  if (!rank.complaint.empty()) return Complaint(rank);
  return absl::UnavailableError(absl::StrCat(rank.name, " is gone"));
}

absl::Status CheckStep(const RanksState& state, const RankDeadlines& deadlines,
                       double now) {
  if (!AnySuspect(state)) return FirstComplaint(state);
  const double waited = now - StepBegan(state);
  return waited < deadlines.step ? absl::OkStatus()
                                 : PastDeadline(state, waited);
}

absl::Status CheckRanks(const RanksState& state, const RankDeadlines& deadlines,
                        double now, bool draining) {
  for (const RankState& rank : state.ranks) {
    if (!rank.loaded && now - rank.answered > deadlines.answer) {
      return absl::UnavailableError(
          absl::StrCat(rank.name, " did not answer for ",
                       Seconds(now - rank.answered), " while loading"));
    }
    if (!rank.loaded && now - rank.heard > deadlines.load) {
      return absl::UnavailableError(absl::StrCat(rank.name, " is silent for ",
                                                 Seconds(now - rank.heard),
                                                 " while loading"));
    }
    if (rank.leaving > 0 && !draining &&
        now - rank.leaving > deadlines.leaving) {
      return absl::UnavailableError(
          absl::StrCat(rank.name, " was told to stop"));
    }
  }
  const bool old_complaint = state.complained > 0 && state.sent.empty() &&
                             now - state.complained > deadlines.complaint;
  return old_complaint ? FirstComplaint(state) : absl::OkStatus();
}

}  // namespace h2o
