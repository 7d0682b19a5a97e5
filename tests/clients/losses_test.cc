// Tables of what `serve` knows of its processes, and what it makes of it.
#include "clients/losses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <string>
#include <vector>

namespace h2o {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int Exited(int code) { return code << 8; }
constexpr int Killed(int signal) { return signal; }
constexpr char kReport[] = "group 0: rank 1 (127.0.0.1:9, cpu, pid 12) is gone";

// A coordinator (pid 10) and workers (pids 11, 12, ..), of which some ended.
std::vector<Child> Children(const std::vector<std::optional<int>>& statuses) {
  std::vector<Child> children;
  for (size_t i = 0; i < statuses.size(); ++i) {
    Child& child = children.emplace_back();
    child.name = i == 0 ? "the coordinator" : "worker " + std::to_string(i - 1);
    child.pid = static_cast<pid_t>(10 + i);
    child.status = statuses[i];
  }
  return children;
}

TEST(Losses, TheKilledRankIsNamedAndNotItsNeighbour) {
  // The neighbour, told that its group is over, ended first.
  const Loss loss = {.noticed = 100, .group = kReport};
  std::vector<Child> children = Children({{}, Exited(1), {}});
  EXPECT_FALSE(IsUnderstood(children, loss, 100.1));
  EXPECT_EQ(Describe(children, loss), kReport);
  children[2].status = Killed(SIGKILL);
  EXPECT_TRUE(IsUnderstood(children, loss, 100.2));
  EXPECT_EQ(Describe(children, loss),
            std::string(kReport) +
                "; worker 1 (pid 12) was killed by signal 9 (Killed)");
}

TEST(Losses, AProcessThatAReportDoesNotNameMayHaveBeenKilled) {
  const Loss loss = {.noticed = 100,
                     .group =
                         "group 0: rank 0 (127.0.0.1:9, cpu, pid 11) "
                         "reports: rank 1 hung up"};
  const std::vector<Child> children = Children({{}, {}, Killed(SIGSEGV)});
  EXPECT_FALSE(IsUnderstood(children, loss, 100.5));
  EXPECT_TRUE(IsUnderstood(children, loss, 101.1));
  EXPECT_THAT(Describe(children, loss), HasSubstr("worker 1 (pid 12) was"));
}

TEST(Losses, LastWordsAreKeptWhateverEndedTheProcess) {
  std::vector<Child> children = Children({{}, Killed(SIGABRT)});
  children[1].last_words = "a.cc:1: check failed: x";
  EXPECT_EQ(Describe(children, Loss{.noticed = 100}),
            "worker 0 (pid 11) was killed by signal 6 (Aborted): a.cc:1: check "
            "failed: x");
}

TEST(Losses, WithoutAReportTheFirstThatEndedBadly) {
  const Loss loss = {.noticed = 100};
  std::vector<Child> children = Children({{}, Exited(0), Exited(1)});
  EXPECT_THAT(Describe(children, loss), HasSubstr("worker 1 (pid 12) ended"));
  EXPECT_FALSE(IsUnderstood(children, loss, 100.9));
  EXPECT_TRUE(IsUnderstood(children, loss, 101.1));
  children[0].status = Killed(SIGKILL);
  EXPECT_TRUE(IsUnderstood(children, loss, 100.0));
  EXPECT_THAT(Describe(children, loss), HasSubstr("the coordinator (pid 10)"));
}

TEST(Losses, EndsOfAJobThatIsToldToStop) {
  EXPECT_TRUE(
      AllEndedInOrder(Children({Exited(0), Exited(3), Killed(SIGTERM), {}})));
  EXPECT_FALSE(AllEndedInOrder(Children({{}, Exited(1)})));
  EXPECT_FALSE(AllEndedInOrder(Children({{}, Killed(SIGKILL)})));
  // A loss that was reported before is history.
  std::vector<Child> children = Children({{}, Exited(1)});
  children[1].reported = true;
  EXPECT_TRUE(AllEndedInOrder(children));
}

TEST(Losses, WorkersOfALostGroupAreOfNoUse) {
  std::vector<Child> children = Children({{}, {}, {}, Exited(1), {}});
  EXPECT_EQ(UsableWorkers(children), 3);
  children[1].lost_at = 100;
  EXPECT_EQ(UsableWorkers(children), 2);
}

TEST(LastWords, OfTextAndJson) {
  EXPECT_EQ(LastWordsIn("h2oserve-worker: DATA_LOSS: torn", "h2oserve-worker"),
            "DATA_LOSS: torn");
  EXPECT_EQ(LastWordsIn(R"({"level":"fatal","message":"torn"})", "x"), "torn");
  EXPECT_EQ(LastWordsIn(R"({"level":"info","message":"\"fatal\""})", "x"),
            std::nullopt);
  EXPECT_EQ(LastWordsIn("2026-11-29 info \"fatal\"", "x"), std::nullopt);
}

}  // namespace
}  // namespace h2o
