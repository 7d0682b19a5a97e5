// Which rank is to blame when a group cannot go on.  Pure functions of what the
// coordinator knows of each rank.
//
// A rank that fails reports why.  The code UNAVAILABLE is a complaint: another
// rank does not answer.  The complaining rank seldom knows the cause.  So a
// complaint waits as long as another rank may be the cause: that rank's stream
// may be about to break, or it may stay silent until the step deadline.
//
// Units    seconds; points in time are those of one clock.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/fault.h"

namespace h2o {

// What a group is lost for.
struct Blame {
  // OK if the group may go on, else UNAVAILABLE naming the rank and what it
  // did.
  absl::Status status;
  FaultKind kind = FaultKind::kExit;
  int rank = -1;  // of several, the first

  bool ok() const { return status.ok(); }
};

struct RankState {
  std::string name;  // "rank 1 (10.0.0.1:4000, cpu, pid 7)"
  bool loaded = false;
  bool owes = true;       // the result of the oldest plan, or of the next
  double heard = 0;       // when it last said something of its own
  double answered = 0;    // when it last answered that it is there
  std::string complaint;  // about another rank; empty: none
};

struct RanksState {
  std::vector<RankState> ranks;
  std::deque<double> sent;  // when each unanswered plan was sent
  double last_done = 0;     // when the last plan was answered by all ranks
  double complained = 0;    // when the first complaint came; 0: none
};

struct RankDeadlines {
  // A rank that owes a result for longer is lost.
  double step = 30;
  // While a group loads, a rank that does not answer for longer is lost, ..
  double answer = 20;
  // .. and one that answers but makes no progress.
  double load = 600;
  // A complaint of a rank waits this long, while no plan runs, for the stream
  // of another rank to break.
  double complaint = 0.3;
};

// Since when the oldest plan runs: a plan that was sent ahead starts when the
// one before it is done.  REQUIRES: a plan is unanswered.
double StepBegan(const RanksState& state);

// Rank `rank` said that it failed; its complaint, if it is one, is in `state`.
Blame AfterFailure(const RanksState& state, int rank,
                   const absl::Status& failure);

// The stream of `rank` ended.  Never OK.
Blame AfterEnd(const RanksState& state, int rank);

// While a plan runs.  REQUIRES: some rank owes its result.
Blame CheckStep(const RanksState& state, const RankDeadlines& deadlines,
                double now);

// At any time.
Blame CheckRanks(const RanksState& state, const RankDeadlines& deadlines,
                 double now);

}  // namespace h2o
