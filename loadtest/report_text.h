// A report as JSON, and as text for a terminal.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "loadtest/load_report.h"

namespace h2o {

nlohmann::ordered_json ReportJson(const Report& report);
std::string ReportText(const Report& report);

nlohmann::ordered_json LimitJson(const LimitReport& limit);
std::string LimitText(const LimitReport& limit);

}  // namespace h2o
