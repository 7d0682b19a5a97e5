// `h2oserve bench`, whole: a run on one rank and on two.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "clients/bench_report.h"
#include "clients/commands.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What it prints.
std::string Bench(const std::string& flags) {
  CLI::App app;
  int exit_code = -1;
  AddBenchCommand(&app, &exit_code);
  ::testing::internal::CaptureStdout();
  app.parse(
      "bench --model models/opt-demo --num-seqs 3 --prompt-len 40 --gen-len 12 "
      "--kv-pool-bytes 33554432 --threads 2 " +
      flags);
  const std::string printed = ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(exit_code, 0) << flags;
  return printed;
}

TEST(Bench, ShowsTheFloorWithAndWithoutAllReduces) {
  const auto json = nlohmann::json::parse(Bench("--tp 2 --json"));
  EXPECT_EQ(json["tp"], 2);
  // 1, 2, 4 .. 2048 rows.
  EXPECT_EQ(json["all_reduces"].size(), 12u);
  const auto& with = json["with_all_reduces"];
  for (const char* key :
       {"floor_prefill_seconds", "floor_decode_seconds", "fraction_of_floor",
        "prefill_fraction", "decode_fraction"}) {
    SCOPED_TRACE(key);
    EXPECT_GT(json[key], 0);
    EXPECT_GT(with[key], json[key]);
  }
  const std::string text = Bench("--tp 2");
  const size_t without = text.find("\nfloor ");
  ASSERT_NE(without, std::string::npos);
  const std::string rest = text.substr(without + 1);
  EXPECT_THAT(rest, HasSubstr("\nwith all-reduces"));
  EXPECT_THAT(rest, HasSubstr("\nfloor "));
}

TEST(Bench, OfOneRankHasNoAllReduces) {
  const auto json = nlohmann::json::parse(Bench("--json"));
  EXPECT_GT(json["fraction_of_floor"], 0);
  EXPECT_FALSE(json.contains("all_reduces"));
  EXPECT_FALSE(json.contains("with_all_reduces"));
  EXPECT_THAT(Bench(""), Not(HasSubstr("all-reduces")));
}

TEST(BenchReport, TellsHowLongEachWayOfSummingTook) {
  BenchReport report{.run = BenchRun(1)};
  report.run.arrivals[0] = {1, 2, 2};
  report.run.seconds = 2;
  report.sums = {
      {32, {8e-6f, 7e-6f, 11e-6f, 12e-6f}},
      {64, {std::numeric_limits<float>::infinity(), 9e-6f, 12e-6f, 15e-6f}}};
  ::testing::internal::CaptureStdout();
  Print(report, /*json=*/true);
  const auto sums =
      nlohmann::json::parse(::testing::internal::GetCapturedStdout())["sums"];
  ASSERT_EQ(sums.size(), 2u);
  EXPECT_EQ(sums[0]["rows"], 32);
  EXPECT_NEAR(sums[0]["push_us"], 8, 1e-3);
  EXPECT_NEAR(sums[1]["all-reduce_us"], 15, 1e-3);
  EXPECT_FALSE(sums[1].contains("push_us"));
}

}  // namespace
}  // namespace h2o
