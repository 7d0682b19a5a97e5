// Prometheus' text format: heads, samples, buckets, escapes.
#include "base/prometheus_text.h"

#include <charconv>
#include <cmath>
#include <cstdint>

#include "base/check.h"

namespace h2o {
namespace {

// Backslash, end of line and, in labels, the quote are escaped.
std::string Escaped(std::string_view text, bool label) {
  std::string escaped;
  for (char c : text) {
    if (c == '\\') {
      escaped += "\\\\";
    } else if (c == '\n') {
      escaped += "\\n";
    } else if (c == '"' && label) {
      escaped += "\\\"";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

}  // namespace

std::string MetricNumber(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value);
  H2O_CHECK(end.ec == std::errc()) << value;
  std::string text(digits, end.ptr);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

void PrometheusText::Family(std::string_view name, std::string_view type,
                            std::string_view help) {
  family_ = name;
  text_.append("# HELP ").append(name).append(" ");
  text_.append(Escaped(help, /*label=*/false)).append("\n");
  text_.append("# TYPE ").append(name).append(" ").append(type).append("\n");
}

void PrometheusText::Sample(const MetricLabels& labels, double value) {
  Line("", labels, MetricNumber(value));
}

void PrometheusText::Sample(const MetricLabels& labels,
                            const Histogram& histogram) {
  MetricLabels of_bucket = labels;
  of_bucket.emplace_back("le", "");
  int64_t up_to = 0;
  for (size_t i = 0; i < histogram.counts().size(); ++i) {
    up_to += histogram.counts()[i];
    of_bucket.back().second = i < histogram.bounds().size()
                                  ? MetricNumber(histogram.bounds()[i])
                                  : "+Inf";
    Line("_bucket", of_bucket, MetricNumber(static_cast<double>(up_to)));
  }
  Line("_sum", labels, MetricNumber(histogram.sum()));
  Line("_count", labels, MetricNumber(static_cast<double>(histogram.count())));
}

void PrometheusText::Line(std::string_view suffix, const MetricLabels& labels,
                          const std::string& value) {
  text_.append(family_).append(suffix);
  const char* before = "{";
  for (const auto& [name, label] : labels) {
    text_.append(before).append(name).append("=\"");
    text_.append(Escaped(label, /*label=*/true)).append("\"");
    before = ",";
  }
  if (!labels.empty()) text_ += '}';
  text_.append(" ").append(value).append("\n");
}

}  // namespace h2o
