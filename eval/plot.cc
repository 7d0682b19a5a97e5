// Draws results as SVG.
#include "eval/plot.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace h2o {
namespace {

// The area that lines are drawn in, in pixels.
constexpr double kLeft = 70, kRight = 560, kTop = 20, kBottom = 330;
constexpr const char* kColours[] = {"#1f77b4", "#d62728", "#2ca02c",
                                    "#9467bd", "#ff7f0e", "#8c564b"};

struct Point {
  double share, low, middle, high;  // perplexities
};

// Linear in bytes, logarithmic in perplexity.
class Axes {
 public:
  explicit Axes(const std::map<KvPolicyName, std::vector<Point>>& lines) {
    for (const auto& [policy, points] : lines) {
      for (const Point& point : points) {
        most_share_ = std::max(most_share_, point.share);
        least_ = std::min(least_, point.low);
        most_ = std::max(most_, point.high);
      }
    }
    least_ /= 1.05;
    most_ *= 1.05;
  }

  double X(double share) const {
    return kLeft + (kRight - kLeft) * share / most_share_;
  }
  double Y(double perplexity) const {
    return kBottom - (kBottom - kTop) * std::log(perplexity / least_) /
                         std::log(most_ / least_);
  }

  std::string Svg() const {
    constexpr int kTicks = 5;
    std::string svg = absl::StrFormat(
        "<path d=\"M%g %gV%gH%g\" fill=\"none\" stroke=\"#888\"/>\n", kLeft,
        kTop, kBottom, kRight);
    for (int i = 0; i <= kTicks; ++i) {
      const double share = most_share_ * i / kTicks;
      absl::StrAppendFormat(
          &svg,
          "<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%.0f%%</text>\n",
          X(share), kBottom + 18, 100 * share);
      const double perplexity = least_ * std::pow(most_ / least_, i / 5.0);
      absl::StrAppendFormat(
          &svg, "<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n",
          kLeft - 6, Y(perplexity) + 4, perplexity);
    }
    absl::StrAppendFormat(
        &svg,
        "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">KV bytes, of the full "
        "cache's in 16 bits</text>\n"
        "<text x=\"16\" y=\"%g\" text-anchor=\"middle\" "
        "transform=\"rotate(-90 16 %g)\">perplexity</text>\n",
        (kLeft + kRight) / 2, kBottom + 40, (kTop + kBottom) / 2,
        (kTop + kBottom) / 2);
    return svg;
  }

 private:
  double most_share_ = 1e-9;
  double least_ = HUGE_VAL, most_ = 0;
};

std::string LineSvg(const std::vector<Point>& points, const Axes& axes,
                    const char* colour) {
  std::string svg =
      absl::StrFormat("<g stroke=\"%s\" fill=\"%s\">\n", colour, colour);
  std::string path;
  for (const Point& point : points) {
    const double x = axes.X(point.share);
    absl::StrAppendFormat(&path, "%s%.1f %.1f", path.empty() ? "M" : "L", x,
                          axes.Y(point.middle));
    absl::StrAppendFormat(&svg,
                          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>"
                          "<path d=\"M%.1f %.1fV%.1f\"/>\n",
                          x, axes.Y(point.middle), x, axes.Y(point.low),
                          axes.Y(point.high));
  }
  absl::StrAppend(&svg, "<path d=\"", path, "\" fill=\"none\"/>\n</g>\n");
  return svg;
}

}  // namespace

std::string EvalPlot(const std::vector<EvalResult>& results) {
  std::map<KvPolicyName, std::vector<Point>> lines;
  for (const EvalResult& result : results) {
    const Interval interval = PerplexityInterval(result.documents);
    lines[result.setting.policy].push_back({result.bytes_share, interval.low,
                                            Perplexity(result.documents),
                                            interval.high});
  }
  for (auto& [policy, points] : lines) {
    std::sort(points.begin(), points.end(),
              [](const Point& a, const Point& b) { return a.share < b.share; });
  }
  const Axes axes(lines);
  std::string svg =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 680 380\" "
      "font-family=\"sans-serif\" font-size=\"12\" fill=\"#888\">\n";
  absl::StrAppend(&svg, axes.Svg());
  int i = 0;
  for (const auto& [policy, points] : lines) {
    const char* const colour = kColours[i % std::size(kColours)];
    absl::StrAppend(&svg, LineSvg(points, axes, colour));
    absl::StrAppendFormat(
        &svg, "<text x=\"%g\" y=\"%g\" fill=\"%s\">%s</text>\n", kRight + 20,
        kTop + 12 + 20.0 * i, colour, std::string(Name(policy)));
    ++i;
  }
  absl::StrAppend(&svg, "</svg>\n");
  return svg;
}

}  // namespace h2o
