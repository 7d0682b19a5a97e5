// `h2oserve bench`, whole: a run on one rank and on two.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

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

}  // namespace
}  // namespace h2o
