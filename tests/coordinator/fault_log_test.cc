// Faults that are counted, and the files that they leave.
#include "coordinator/fault_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "coordinator/fault_files.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

class StillClock final : public Clock {
 public:
  double Now() const override { return now; }
  double now = 100;
};

Fault FaultOf(FaultKind kind, double unix_seconds = 1e9) {
  return {.kind = kind,
          .group = 3,
          .rank = 1,
          .place = {.device = "cuda:1", .address = "10.0.0.1:7", .pid = 42},
          .unix_seconds = unix_seconds,
          .words = "rank 1 is gone"};
}

StepHistory TwoSteps() {
  StepHistory history(2);
  for (uint64_t step : {1, 2}) {
    StepPlan plan;
    plan.step = step;
    plan.decode = {9};
    history.Sent(plan, 5, 90 + 0.5 * static_cast<double>(step));
  }
  GroupResult result;
  result.step.step = 1;
  result.ranks = {{.step_seconds = 0.25}, {.step_seconds = 0.25}};
  history.Done(result, 91);
  return history;
}

size_t FilesIn(const std::string& folder) {
  const std::filesystem::directory_iterator files(folder), end;
  return static_cast<size_t>(std::distance(files, end));
}

TEST(FaultLog, CountsByGroupRankAndKind) {
  FaultLog log;
  EXPECT_FALSE(log.last());
  log.Add(FaultOf(FaultKind::kExit));
  log.Add(FaultOf(FaultKind::kSilence));
  log.Add(FaultOf(FaultKind::kExit));
  const std::vector<FaultLog::Count> counts = log.counts();
  ASSERT_EQ(counts.size(), 2);
  EXPECT_EQ(counts[0].group, 3);
  EXPECT_EQ(counts[0].rank, 1);
  EXPECT_STREQ(Name(counts[0].kind), "exit");
  EXPECT_EQ(counts[0].count, 2);
  EXPECT_EQ(log.last()->words, "rank 1 is gone");
}

TEST(FaultFiles, TellWhatWasUnderWay) {
  const StepHistory history = TwoSteps();
  const auto json = nlohmann::json::parse(
      FaultJson(FaultOf(FaultKind::kSilence), &history, 100));
  EXPECT_EQ(json["kind"], "silence");
  EXPECT_EQ(json["rank"], 1);
  EXPECT_EQ(json["device"], "cuda:1");
  EXPECT_EQ(json["pid"], 42);
  EXPECT_EQ(json["when"], "2001-09-09T01:46:40.000Z");
  ASSERT_EQ(json["steps"].size(), 2);
  EXPECT_EQ(json["steps"][0]["sent"], -9.5);
  EXPECT_EQ(json["steps"][0]["done"], -9.0);
  EXPECT_EQ(json["steps"][0]["ranks"][1]["step_seconds"], 0.25);
  EXPECT_EQ(json["steps"][1]["step"], 2);
  EXPECT_TRUE(json["steps"][1]["done"].is_null());
  EXPECT_EQ(json["steps"][1]["pages_held"], 5);
  EXPECT_EQ(json["steps"][1]["decoded"]["first"][0], 9);
}

TEST(FaultFiles, AreBoundedAndWhole) {
  const TempDirectory temp;
  const std::string folder = temp.path() + "/new/faults";
  StillClock clock;
  FaultFiles files(folder, &clock);
  ASSERT_TRUE(files.Prepare().ok());
  for (int i = 0; i < FaultFiles::kMostFiles + 3; ++i) {
    files.Write(FaultOf(FaultKind::kExit, 1e9 + i), nullptr);
  }
  EXPECT_EQ(FilesIn(folder), size_t{FaultFiles::kMostFiles});
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    std::ifstream text(file.path());
    EXPECT_EQ(nlohmann::json::parse(text)["kind"], "exit");
    EXPECT_THAT(file.path().filename().string(),
                ::testing::StartsWith("fault-20010909T"));
  }
}

TEST(FaultFiles, ThoseThatRequestsCauseAreRare) {
  const TempDirectory temp;
  StillClock clock;
  FaultFiles files(temp.path(), &clock);
  files.Write(FaultOf(FaultKind::kNonFinite), nullptr);
  files.Write(FaultOf(FaultKind::kNonFinite), nullptr);
  EXPECT_EQ(FilesIn(temp.path()), 1);
  clock.now += FaultFiles::kNonFiniteSeconds;
  files.Write(FaultOf(FaultKind::kNonFinite), nullptr);
  EXPECT_EQ(FilesIn(temp.path()), 2);
}

TEST(FaultFiles, AFolderThatCannotBe) {
  const SteadyClock clock;
  EXPECT_TRUE(FaultFiles("", &clock).Prepare().ok());
  EXPECT_EQ(FaultFiles("/dev/null/faults", &clock).Prepare().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace h2o
