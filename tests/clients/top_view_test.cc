// Tests what `h2oserve top` makes of a server's status.
#include "clients/top_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace h2o {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kStatus[] = R"({"model": "opt-demo",
  "build": {"version": "0.1.0"}, "running": 3, "finished": 12345,
  "refused": 0, "replays": 2, "generated_tokens": 5000,
  "queue": {"waiting": 4, "age_seconds": 1.5, "tenants": [
    {"name": "team-a", "waiting": 4, "running": 3, "tokens": 700}]},
  "last_fault": {"kind": "exit", "unix_seconds": 1700000000,
                 "words": "rank 1 is gone"},
  "groups": [{"group": 0, "running": 3, "draining": true, "ranks": [
    {"rank": 0, "device": "cuda:0", "address": "10.0.0.1:7", "pages_held": 25,
     "pages_total": 100, "step_ms_p50": 14.2, "step_ms_p99": 15,
     "last_step_age_seconds": 0.01},
    {"rank": 1, "device": "cuda:1", "address": "10.0.0.1:8", "pages_held": 100,
     "pages_total": 100}]}]})";

TEST(TopView, ShowsGroupsRanksAndTenants) {
  const std::string view = TopView({kStatus, 10}, {}, 200).value();
  EXPECT_THAT(view, HasSubstr("h2oserve 0.1.0   opt-demo   1 group(s) ready"));
  EXPECT_THAT(view, HasSubstr("waiting 4 (oldest 1.5 s)   tokens/s -"));
  EXPECT_THAT(view, HasSubstr("finished 12,345"));
  EXPECT_THAT(view, HasSubstr("[####............]  25 %"));
  EXPECT_THAT(view, HasSubstr("[################] 100 %"));
  EXPECT_THAT(view, HasSubstr("14.2 ms"));
  EXPECT_THAT(view, HasSubstr("team-a"));
  EXPECT_THAT(view, HasSubstr("3 drains"));
  EXPECT_THAT(view, HasSubstr("last fault: 2023-11-14 22:13:20 UTC, exit: "
                              "rank 1 is gone"));
}

TEST(TopView, RatesAreOfTheTimeBetweenTwoSamples) {
  std::string later = kStatus;
  later.replace(later.find("5000"), 4, "7500");
  later.replace(later.find("700"), 3, "950");
  const std::string view =
      TopView({later, 12}, TopSample{kStatus, 10}, 200).value();
  EXPECT_THAT(view, HasSubstr("tokens/s 1,250"));
  EXPECT_THAT(view, HasSubstr("125\n"));
  // A server that was started anew counts from 0.
  EXPECT_THAT(TopView({kStatus, 12}, TopSample{later, 10}, 200).value(),
              HasSubstr("tokens/s 0"));
}

TEST(TopView, LinesAreCutToTheTerminal) {
  const std::string view = TopView({kStatus, 10}, {}, 40).value();
  EXPECT_THAT(view, HasSubstr("h2oserve 0.1.0   opt-demo   1 group(s) r\n"));
}

TEST(TopView, OtherServersMayLackFieldsOrSendNonsense) {
  const std::string view = TopView({"{}", 1}, {}, 80).value();
  EXPECT_THAT(view, HasSubstr("0 group(s) ready"));
  EXPECT_THAT(view, Not(HasSubstr("tenant")));
  EXPECT_EQ(TopView({"[1]", 1}, {}, 80).status().code(),
            absl::StatusCode::kDataLoss);
  // Control characters of a stranger do not reach the terminal.
  EXPECT_THAT(TopView({R"({"model": "\u001b[2J"})", 1}, {}, 80).value(),
              Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace h2o
