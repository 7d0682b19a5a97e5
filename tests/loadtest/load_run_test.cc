// Tests the sender in simulated time: waiting times of a queue against theory,
// a server that stalls, and the parts of several generators.
#include "loadtest/load_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "loadtest/load_report.h"

namespace h2o {
namespace {

// Time stands still until somebody waits.
class SimulatedPace final : public Pace {
 public:
  double Now() const override { return now_; }
  void SleepUntil(double time) override { now_ = std::max(now_, time); }

 private:
  double now_ = 100;
};

// One server with a queue: each request takes `service` seconds and gets its
// only token when it is done.  It stands still from `stall` for
// `stall_seconds`.
class QueueTarget final : public Target {
 public:
  QueueTarget(Pace* pace, double service) : pace_(pace), service_(service) {}

  void Start(LoadRequest request, LoadHandler handler) override {
    double begin = std::max(pace_->Now(), free_);
    if (begin >= stall && begin < stall + stall_seconds) {
      begin = stall + stall_seconds;
    }
    free_ = begin + service_;
    prompts.push_back(std::move(request.prompt));
    handler.on_tokens(free_, 1);
    handler.on_end(free_, LoadOutcome::kOk, "");
  }
  void CancelAll() override {}

  double stall = 0, stall_seconds = 0;
  std::vector<std::vector<int32_t>> prompts;

 private:
  Pace* const pace_;
  const double service_;
  double free_ = 0;
};

std::vector<RequestRecord> RunAll(const LoadSpec& spec, Pace* pace,
                                  Target* target, LoadPart part = {}) {
  std::vector<RequestRecord> records;
  LoadRun run(&spec, part, {target}, pace,
              [&](RequestRecord r) { records.push_back(std::move(r)); });
  run.Run(pace->Now() + 1);
  EXPECT_EQ(run.progress().in_flight(), 0);
  EXPECT_EQ(run.progress().ok, records.size());
  return records;
}

// The mean wait of an M/D/1 queue is rho D / (2 (1 - rho)): Pollaczek and
// Khinchine (Kleinrock, "Queueing systems", 1975, section 5.6).
TEST(LoadRun, WaitingTimesOfAQueueFitTheory) {
  constexpr double kService = 0.05;
  for (const double rho : {0.3, 0.6, 0.8}) {
    SimulatedPace pace;
    QueueTarget target(&pace, kService);
    const LoadSpec spec{.rate = {{0, rho / kService}},
                        .duration_seconds = 4000,
                        .targets = {"queue"},
                        .seed = 11};
    const auto records = RunAll(spec, &pace, &target);
    double wait = 0;
    for (const RequestRecord& record : records) {
      wait += (record.Ttft() - kService) / static_cast<double>(records.size());
      EXPECT_LT(record.Lateness(), 1e-9);
    }
    const double theory = rho * kService / (2 * (1 - rho));
    EXPECT_NEAR(wait, theory, 0.1 * theory) << rho;
  }
}

// A server that stands still for a second is charged for every request that was
// to be sent meanwhile.
TEST(LoadRun, AStalledServerShowsFromTheIntendedTime) {
  SimulatedPace pace;
  QueueTarget target(&pace, 0.001);
  target.stall = pace.Now() + 6;
  target.stall_seconds = 1;
  const LoadSpec spec{.arrivals = ArrivalKind::kConstant,
                      .rate = {{0, 100}},
                      .duration_seconds = 10,
                      .targets = {"queue"}};
  const Report report =
      MakeReport(spec, {}, RunAll(spec, &pace, &target), {{"here"}});
  EXPECT_EQ(report.all.requests, 1000);
  EXPECT_LT(report.ttft.quantiles[0].value, 0.002);
  EXPECT_GT(report.ttft.quantiles[3].value, 0.85);  // a tenth of all waited
  EXPECT_GT(report.ttft.quantiles[2].value, 0.4);
}

// In a closed loop the time counts from when the client was free to send.
// Refuses all, with words that are not fit for a terminal.
class RudeTarget final : public Target {
 public:
  void Start(LoadRequest /*request*/, LoadHandler handler) override {
    handler.on_end(101, LoadOutcome::kRefused,
                   "\x1b[2J" + std::string(1 << 20, 'x'));
  }
  void CancelAll() override {}
};

TEST(LoadRun, AnErrorIsMadeFitForALine) {
  SimulatedPace pace;
  RudeTarget target;
  std::vector<RequestRecord> records;
  const LoadSpec spec{.rate = {{0, 9}},
                      .max_requests = 1,
                      // No memory is taken ahead for the longest of answers.
                      .lengths = {.output = {.a = 10'000'000}},
                      .targets = {"rude"}};
  LoadRun run(&spec, {}, {&target}, &pace,
              [&](RequestRecord r) { records.push_back(std::move(r)); });
  run.Run(pace.Now());
  ASSERT_EQ(records.size(), 1);
  EXPECT_LT(records[0].error.size(), 1100);
  EXPECT_EQ(records[0].error.substr(0, 4), "?[2J");
  EXPECT_LT(records[0].pieces.capacity(), 10'000);
}

TEST(LoadRun, AClosedLoopAsksAgainWhenItWasAnswered) {
  SimulatedPace pace;
  QueueTarget target(&pace, 0.1);
  const LoadSpec spec{.arrivals = ArrivalKind::kClosed,
                      .concurrency = 4,
                      .duration_seconds = 10,
                      .targets = {"queue"}};
  auto records = RunAll(spec, &pace, &target);
  // The server is never idle: about 100 requests in 10 s, and those of the last
  // four clients.
  EXPECT_NEAR(static_cast<double>(records.size()), 104, 4);
  EXPECT_NEAR(records[50].E2e(), 0.4, 1e-6);
  LoadSpec few = spec;
  few.max_requests = 7;
  EXPECT_EQ(RunAll(few, &pace, &target).size(), 7);
}

TEST(LoadRun, PartsOfGeneratorsMakeTheSameStream) {
  const LoadSpec spec{
      .rate = {{0, 20}},
      .duration_seconds = 10,
      .lengths = {*ParseLengthLaw("uniform:1:40"), *ParseLengthLaw("3")},
      .targets = {"queue"},
      .seed = 5};
  SimulatedPace pace;
  QueueTarget target(&pace, 0.001);
  const auto whole = RunAll(spec, &pace, &target);
  std::vector<std::pair<int64_t, double>> expected, got;
  for (const auto& r : whole) expected.emplace_back(r.index, r.intended);
  std::vector<std::vector<int32_t>> prompts(whole.size());
  for (int part = 0; part < 3; ++part) {
    SimulatedPace own_pace;
    QueueTarget own(&own_pace, 0.001);
    const auto records = RunAll(spec, &own_pace, &own, {part, 3});
    for (size_t i = 0; i < records.size(); ++i) {
      EXPECT_EQ(records[i].generator, part);
      got.emplace_back(records[i].index, records[i].intended);
      prompts[records[i].index] = own.prompts[i];
    }
  }
  std::sort(got.begin(), got.end());
  EXPECT_EQ(got, expected);
  EXPECT_EQ(prompts, target.prompts);
}

}  // namespace
}  // namespace h2o
