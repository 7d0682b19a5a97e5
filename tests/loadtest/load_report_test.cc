// Tests what is made of records: percentiles, intervals, counts, the timeline,
// and what is warned of.
#include "loadtest/load_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "loadtest/draws.h"
#include "loadtest/report_text.h"
#include "loadtest/request_record.h"
#include "loadtest/statistics.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

// Four tokens, 10 ms apart, the first 50 ms behind the intended time.
RequestRecord Answered(int64_t index, double intended) {
  RequestRecord record{.index = index,
                       .prompt_tokens = 10,
                       .wanted_tokens = 4,
                       .intended = intended,
                       .sent = intended + 0.001,
                       .end = intended + 0.08};
  for (int i = 0; i < 4; ++i) {
    record.pieces.push_back({intended + 0.05 + 0.01 * i, 1});
  }
  return record;
}

TEST(Statistics, QuantilesAreNumpys) {
  // numpy.percentile([1, 2, 4, 8], [0, 50, 90, 100])
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(QuantileOfSorted(values, 0), 1);
  EXPECT_DOUBLE_EQ(QuantileOfSorted(values, 0.5), 3);
  EXPECT_DOUBLE_EQ(QuantileOfSorted(values, 0.9), 6.8);
  EXPECT_DOUBLE_EQ(QuantileOfSorted(values, 1), 8);
  EXPECT_EQ(QuantileOfSorted({}, 0.5), 0);
}

// 95 % intervals hold the truth in about 95 of 100 experiments.
TEST(Statistics, IntervalsHoldTheTruth) {
  int held = 0;
  for (int experiment = 0; experiment < 100; ++experiment) {
    std::vector<Sample> samples;
    Draws draws(experiment, 0, DrawFor::kGap);
    for (int i = 0; i < 200; ++i) samples.push_back({draws.Exponential(), i});
    const Estimate median = Describe(samples, experiment).quantiles[0];
    held += median.low <= std::log(2.0) && std::log(2.0) <= median.high;
    EXPECT_LE(median.low, median.value);
    EXPECT_LE(median.value, median.high);
  }
  EXPECT_GE(held, 88);
}

// Values of one request depend on each other, so many of them say no more.
TEST(Statistics, IntervalsResampleRequests) {
  std::vector<Sample> once, many;
  Draws draws(1, 0, DrawFor::kGap);
  for (int i = 0; i < 50; ++i) {
    const double value = draws.Exponential();
    once.push_back({value, i});
    for (int k = 0; k < 20; ++k) many.push_back({value, i});
  }
  const Estimate a = Describe(once, 1).quantiles[0];
  const Estimate b = Describe(many, 1).quantiles[0];
  EXPECT_NEAR(a.high - a.low, b.high - b.low, 0.2 * (a.high - a.low));
}

TEST(Statistics, OneValueHasAnInterval) {
  const Distribution one = Describe({{3, 17}}, 1);
  EXPECT_EQ(one.quantiles[3].low, 3);
  EXPECT_EQ(one.quantiles[3].high, 3);
  EXPECT_EQ(Describe({}, 1).count, 0);
}

TEST(Statistics, JainIndex) {
  EXPECT_DOUBLE_EQ(JainIndex({2, 2, 2}), 1);
  EXPECT_DOUBLE_EQ(JainIndex({1, 0, 0, 0}), 0.25);
  EXPECT_DOUBLE_EQ(JainIndex({}), 1);
}

TEST(RequestRecord, GoesThroughJson) {
  RequestRecord record = Answered(4, 1.25);
  record.outcome = LoadOutcome::kRefused;
  record.error = "full \xff";
  const auto read = RecordFromJson(ToJson(record));
  ASSERT_TRUE(read.ok()) << read.status();
  record.error = "full \xEF\xBF\xBD";
  EXPECT_EQ(*read, record);
  EXPECT_FALSE(RecordFromJson("{}").ok());
  EXPECT_FALSE(RecordFromJson("[").ok());
}

TEST(RequestRecord, TpotCountsTokensBehindTheFirstPiece) {
  RequestRecord record = Answered(0, 0);
  EXPECT_NEAR(*record.Tpot(), 0.01, 1e-12);
  record.pieces = {{1, 3}, {2, 2}};
  EXPECT_NEAR(*record.Tpot(), 0.5, 1e-12);
  record.pieces.pop_back();
  EXPECT_FALSE(record.Tpot().has_value());
}

TEST(Report, SaysWhatTheRecordsSay) {
  const LoadSpec spec{.duration_seconds = 10,
                      .warmup_seconds = 1,
                      .tenants = {{"a", 1}, {"b", 2}},
                      .targets = {"x"}};
  std::vector<RequestRecord> records;
  for (int i = 0; i < 100; ++i) {
    records.push_back(Answered(i, 0.1 * i));
    records.back().tenant = i % 3 == 0 ? 0 : 1;
  }
  records[50].outcome = LoadOutcome::kRefused;
  records[50].pieces.clear();
  records[51].outcome = LoadOutcome::kFailed;
  records[51].error = "boom";
  records[52].pieces[0].at += 0.3;
  for (TokenPiece& piece : records[53].pieces) piece.at += 0.02;
  const Report report = MakeReport(
      spec, {.ttft_seconds = 0.06, .tpot_seconds = 0.02}, records, {{"here"}});
  EXPECT_EQ(report.all.requests, 90);  // without the warm-up
  EXPECT_EQ(report.all.ok, 88);
  EXPECT_EQ(report.all.refused, 1);
  EXPECT_EQ(report.all.failed, 1);
  EXPECT_EQ(report.all.good, 86);
  EXPECT_EQ(report.first_error, "boom");
  EXPECT_EQ(report.ttft.count, 88);
  EXPECT_NEAR(report.ttft.quantiles[0].value, 0.05, 1e-9);
  EXPECT_NEAR(report.ttft_from_send.quantiles[0].value, 0.049, 1e-9);
  EXPECT_EQ(report.itl.count, 3 * 88);
  EXPECT_NEAR(report.lateness.max, 0.001, 1e-9);
  ASSERT_EQ(report.tenants.size(), 2);
  EXPECT_EQ(report.tenants[0].requests + report.tenants[1].requests, 90);
  EXPECT_GT(report.fairness, 0.99);
  EXPECT_TRUE(report.keeps_up);
  EXPECT_TRUE(report.warnings.empty());
  int64_t tokens = 0, intended = 0;
  for (const Bucket& bucket : report.timeline) {
    tokens += bucket.tokens;
    intended += bucket.intended;
  }
  EXPECT_EQ(tokens, 4 * 99);
  EXPECT_EQ(intended, 100);
  EXPECT_EQ(report.timeline.back().in_flight, 0);

  const auto json = ReportJson(report);
  EXPECT_EQ(json["requests"]["ok"], 88);
  EXPECT_NEAR(json["ttft_ms"]["p50"].get<double>(), 50, 1e-6);
  EXPECT_THAT(ReportText(report), HasSubstr("88 answered, 1 refused"));
}

TEST(Report, WarnsOfWhatMakesItUnsure) {
  LoadSpec spec{.duration_seconds = 10, .max_in_flight = 5};
  std::vector<RequestRecord> records;
  for (int i = 0; i < 400; ++i) {
    records.push_back(Answered(i, 0.01 * i));
    records.back().sent += 0.02;
    records.back().end += 0.02 * i;  // the server falls behind
  }
  records[7].outcome = LoadOutcome::kUnfinished;
  const Report report =
      MakeReport(spec, {}, records, {{.name = "here", .waited = 3}});
  EXPECT_FALSE(report.keeps_up);
  EXPECT_THAT(report.warnings,
              testing::ElementsAre(HasSubstr("sent late: 21 ms"),
                                   HasSubstr("3 requests waited"),
                                   HasSubstr("1 requests had not ended"),
                                   HasSubstr("fall behind")));
}

TEST(Report, OfNothingIsEmpty) {
  const Report report = MakeReport({}, {}, {}, {{"here"}});
  EXPECT_EQ(report.all.requests, 0);
  EXPECT_TRUE(report.timeline.empty());
  EXPECT_EQ(ReportJson(report)["ttft_ms"]["count"], 0);
}

}  // namespace
}  // namespace h2o
