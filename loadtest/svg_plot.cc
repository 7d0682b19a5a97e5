// Draws line plots with axes and legends, as SVG.
#include "loadtest/svg_plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace h2o {
namespace {

constexpr double kWidth = 640, kHeight = 260;
constexpr double kLeft = 64, kRight = 16, kTop = 40, kBottom = 44;
constexpr int kTicks = 5;  // about so many

// Of one axis, which begins at 0.
struct Axis {
  double end = 1;
  double step = 0.2;
};

// Steps of 1, 2 or 5 times a power of ten.
Axis AxisTo(double greatest) {
  if (!(greatest > 0)) return {};
  const double rough = greatest / kTicks;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power) {
      step = factor * power;
      break;
    }
  }
  return {std::ceil(greatest / step - 1e-9) * step, step};
}

double Greatest(const Plot& plot, std::vector<double> PlotSeries::*values) {
  double greatest = 0;
  for (const PlotSeries& series : plot.series) {
    for (const double value : series.*values) {
      greatest = std::max(greatest, value);
    }
  }
  return greatest;
}

class Canvas {
 public:
  Canvas(Axis x, Axis y) : x_(x), y_(y) {}

  double X(double value) const {
    return kLeft + (kWidth - kLeft - kRight) * value / x_.end;
  }
  double Y(double value) const {
    return kHeight - kBottom - (kHeight - kTop - kBottom) * value / y_.end;
  }

  void Text(double x, double y, const char* anchor, const std::string& text) {
    absl::StrAppendFormat(&svg_,
                          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s"
                          "</text>",
                          x, y, anchor, Escaped(text));
  }

  void Axes(const Plot& plot) {
    for (double v = 0; v <= y_.end * 1.0001; v += y_.step) {
      absl::StrAppendFormat(
          &svg_,
          "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" "
          "y2=\"%.1f\"/>",
          kLeft, kWidth - kRight, Y(v), Y(v));
      Text(kLeft - 6, Y(v) + 4, "end", absl::StrFormat("%.4g", v));
    }
    for (double v = 0; v <= x_.end * 1.0001; v += x_.step) {
      Text(X(v), kHeight - kBottom + 16, "middle", absl::StrFormat("%.4g", v));
    }
    Text((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", plot.x_label);
    Text(kLeft, kTop - 8, "start", plot.y_label);
  }

  void Line(const PlotSeries& series, int number) {
    absl::StrAppendFormat(&svg_, "<polyline class=\"s%d\" points=\"", number);
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (series.steps && i > 0) Point(series.x[i], series.y[i - 1]);
      Point(series.x[i], series.y[i]);
    }
    absl::StrAppend(&svg_, "\"/>");
    const double x = kWidth - kRight - 150.0 * (4 - number);
    absl::StrAppendFormat(
        &svg_,
        "<line class=\"s%d\" x1=\"%.0f\" x2=\"%.0f\" y1=\"12\" "
        "y2=\"12\"/>",
        number, x, x + 18);
    Text(x + 24, 16, "start", series.name);
  }

  std::string Finish(const std::string& title) const {
    return absl::StrFormat(
        "<figure><figcaption>%s</figcaption><svg viewBox=\"0 0 %.0f %.0f\" "
        "role=\"img\" aria-label=\"%s\">%s</svg></figure>\n",
        Escaped(title), kWidth, kHeight, Escaped(title), svg_);
  }

 private:
  void Point(double x, double y) {
    absl::StrAppendFormat(&svg_, "%.1f,%.1f ", X(x), Y(y));
  }

  const Axis x_, y_;
  std::string svg_;
};

}  // namespace

std::string Escaped(const std::string& text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string SvgOf(const Plot& plot) {
  Canvas canvas(AxisTo(Greatest(plot, &PlotSeries::x)),
                AxisTo(Greatest(plot, &PlotSeries::y)));
  canvas.Axes(plot);
  for (size_t i = 0; i < plot.series.size(); ++i) {
    canvas.Line(plot.series[i], static_cast<int>(i));
  }
  return canvas.Finish(plot.title);
}

}  // namespace h2o
