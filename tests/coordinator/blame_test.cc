// Tables of what is known of ranks, and who is to blame for it.
#include "coordinator/blame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace h2o {
namespace {

using ::testing::HasSubstr;

// Two loaded ranks that were last heard at 100; one plan, sent at 100, that
// both owe.
RanksState Running() {
  RanksState state;
  state.ranks = {{.name = "rank 0", .loaded = true, .heard = 100},
                 {.name = "rank 1", .loaded = true, .heard = 100}};
  state.sent = {100};
  return state;
}

RanksState Loading(double answered) {
  RanksState state = Running();
  state.sent.clear();
  state.ranks[1].loaded = false;
  state.ranks[1].answered = answered;
  return state;
}

RanksState Idle() {
  RanksState state = Running();
  state.sent.clear();
  return state;
}

RanksState Complaining(RanksState state, int rank) {
  state.ranks[rank].complaint = "a peer is silent";
  state.complained = 101;
  return state;
}

RanksState Answered(RanksState state, int rank) {
  state.ranks[rank].owes = false;
  return state;
}

std::string Text(const absl::Status& status) {
  if (status.ok()) return "";
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  return std::string(status.message());
}

struct Case {
  RanksState state;
  double now;
  const char* says;  // empty: the group goes on
  FaultKind kind = FaultKind::kSilence;
  int rank = 0;
};

void Expect(const Case& c, const Blame& blame) {
  EXPECT_EQ(blame.ok(), std::string(c.says).empty()) << blame.status;
  EXPECT_THAT(Text(blame.status), HasSubstr(c.says));
  if (blame.ok()) return;
  EXPECT_STREQ(Name(blame.kind), Name(c.kind)) << c.says;
  EXPECT_EQ(blame.rank, c.rank) << c.says;
}

TEST(Blame, WhileAPlanRuns) {
  RanksState ahead = Running();  // the plan before it was done at 120
  ahead.last_done = 120;
  const Case cases[] = {
      {Running(), 129, ""},
      {Running(), 130, "rank 0 and rank 1 are silent for 30.0 s"},
      {ahead, 149, ""},
      {ahead, 150, "rank 0 and rank 1 are silent for 30.0 s"},
      {Answered(Running(), 0), 130, "rank 1 is silent for 30.0 s",
       FaultKind::kSilence, 1},
      // Rank 1 may be the one that rank 0 waits for.
      {Complaining(Running(), 0), 129, ""},
      {Complaining(Running(), 0), 131, "rank 1 is silent for 31.0 s",
       FaultKind::kSilence, 1},
      {Complaining(Answered(Running(), 1), 0), 102,
       "rank 0 reports: a peer is silent", FaultKind::kCollective, 0},
      {Complaining(Complaining(Running(), 0), 1), 102,
       "rank 0 reports: a peer is silent", FaultKind::kCollective, 0},
  };
  for (const Case& c : cases) {
    Expect(c, CheckStep(c.state, RankDeadlines(), c.now));
  }
}

TEST(Blame, AtAnyTime) {
  const Case cases[] = {
      {Idle(), 1e9, ""},
      {Running(), 1e9, ""},  // CheckStep's
      {Loading(690), 700, ""},
      {Loading(690), 701, "rank 1 is silent for 601.0 s while loading",
       FaultKind::kSilence, 1},
      {Loading(100), 120, ""},
      {Loading(100), 121, "rank 1 did not answer for 21.0 s while loading",
       FaultKind::kSilence, 1},
      {Complaining(Idle(), 0), 101.2, ""},
      {Complaining(Idle(), 0), 101.4, "rank 0 reports: a peer is silent",
       FaultKind::kCollective, 0},
      {Complaining(Running(), 0), 1e9, ""},  // CheckStep's
  };
  for (const Case& c : cases) {
    Expect(c, CheckRanks(c.state, RankDeadlines(), c.now));
  }
}

TEST(Blame, AFailureOfItsOwnEndsTheGroupAtOnce) {
  Expect({.says = "rank 1 failed: INTERNAL: a gap",
          .kind = FaultKind::kFailure,
          .rank = 1},
         AfterFailure(Running(), 1, absl::InternalError("a gap")));
}

TEST(Blame, AComplaintWaitsWhileAnotherMayBeTheCause) {
  const absl::Status complaint = absl::UnavailableError("a peer is silent");
  EXPECT_TRUE(AfterFailure(Complaining(Running(), 1), 1, complaint).ok());
  Expect({.says = "rank 1 reports: a peer is silent",
          .kind = FaultKind::kCollective,
          .rank = 1},
         AfterFailure(Complaining(Answered(Running(), 0), 1), 1, complaint));
}

TEST(Blame, AStreamThatEnds) {
  Expect({.says = "rank 1 is gone", .kind = FaultKind::kExit, .rank = 1},
         AfterEnd(Running(), 1));
  Expect({.says = "rank 1 reports: a peer is silent",
          .kind = FaultKind::kCollective,
          .rank = 1},
         AfterEnd(Complaining(Running(), 1), 1));
}

}  // namespace
}  // namespace h2o
