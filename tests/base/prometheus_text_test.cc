// Tests the text format of metrics, number by number.
#include "base/prometheus_text.h"

#include <gtest/gtest.h>

#include <limits>

namespace h2o {
namespace {

TEST(MetricNumber, IsWrittenAsPythonWritesIt) {
  EXPECT_EQ(MetricNumber(1), "1.0");
  EXPECT_EQ(MetricNumber(0), "0.0");
  EXPECT_EQ(MetricNumber(0.005), "0.005");
  EXPECT_EQ(MetricNumber(2560), "2560.0");
  EXPECT_EQ(MetricNumber(std::numeric_limits<double>::infinity()), "+Inf");
  EXPECT_EQ(MetricNumber(std::numeric_limits<double>::quiet_NaN()), "NaN");
}

TEST(Histogram, AValueCountsInTheFirstBucketThatHoldsIt) {
  Histogram h({0.1, 1});
  for (double v : {0.05, 0.1, 0.11, 1.0, 7.0}) h.Observe(v);
  EXPECT_EQ(h.counts(), (std::vector<int64_t>{2, 2, 1}));
  EXPECT_EQ(h.count(), 5);
  EXPECT_DOUBLE_EQ(h.sum(), 8.26);
}

TEST(PrometheusText, WritesFamiliesWithTheirSamples) {
  PrometheusText page;
  page.Family("a_total", "counter", "Things\nthat \\ happened");
  page.Sample({{"why", "a \"b\"\n"}}, 3);
  page.Sample({}, 4);
  Histogram h({0.5});
  h.Observe(0.25);
  h.Observe(2);
  page.Family("b_seconds", "histogram", "Waiting");
  page.Sample({{"rank", "0"}}, h);
  EXPECT_EQ(page.text(),
            "# HELP a_total Things\\nthat \\\\ happened\n"
            "# TYPE a_total counter\n"
            "a_total{why=\"a \\\"b\\\"\\n\"} 3.0\n"
            "a_total 4.0\n"
            "# HELP b_seconds Waiting\n"
            "# TYPE b_seconds histogram\n"
            "b_seconds_bucket{rank=\"0\",le=\"0.5\"} 1.0\n"
            "b_seconds_bucket{rank=\"0\",le=\"+Inf\"} 2.0\n"
            "b_seconds_sum{rank=\"0\"} 2.25\n"
            "b_seconds_count{rank=\"0\"} 2.0\n");
}

}  // namespace
}  // namespace h2o
