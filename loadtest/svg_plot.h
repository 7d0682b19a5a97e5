// Line plots in SVG, for a page whose style names the colours --s0 to --s3.
#pragma once

#include <string>
#include <vector>

namespace h2o {

struct PlotSeries {
  std::string name;
  std::vector<double> x, y;  // of equal length
  bool steps = false;        // y stays until the next x
};

struct Plot {
  std::string title, x_label, y_label;
  std::vector<PlotSeries> series;  // at most 4
};

std::string SvgOf(const Plot& plot);

// For text in HTML and SVG.
std::string Escaped(const std::string& text);

}  // namespace h2o
