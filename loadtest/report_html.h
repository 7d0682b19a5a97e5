// A report as one HTML file: tables, and plots in SVG.  It needs nothing else,
// and is light or dark as the reader's system is.
#pragma once

#include <optional>
#include <string>

#include "loadtest/load_report.h"

namespace h2o {

std::string ReportHtml(const Report& report,
                       const std::optional<LimitReport>& limit);

}  // namespace h2o
