// Writes metrics in Prometheus' text format 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats).
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/histogram.h"

namespace h2o {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

// A page of metrics.  A family's samples follow its head.
class PrometheusText {
 public:
  // `type` is counter, gauge or histogram.  Names of counters end in _total.
  void Family(std::string_view name, std::string_view type,
              std::string_view help);
  // One sample of the family begun last.
  void Sample(const MetricLabels& labels, double value);
  // Likewise, of a family of histograms.
  void Sample(const MetricLabels& labels, const Histogram& histogram);

  const std::string& text() const { return text_; }

 private:
  void Line(std::string_view suffix, const MetricLabels& labels,
            const std::string& value);

  std::string family_;
  std::string text_;
};

// As Python prints it: 1.0, 0.005, +Inf.  Prometheus takes le="1" and le="1.0"
// for two series, and others print the second.
std::string MetricNumber(double value);

}  // namespace h2o
