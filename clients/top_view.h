// What `h2oserve top` shows of a server's status (/v1/status).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace h2o {

struct TopSample {
  std::string status;  // JSON, as the server gives it
  double when = 0;     // seconds
};

// Lines of text, at most `columns` wide each.  Rates are of the time since
// `before`; without it, they are not shown.
// Errors: DATA_LOSS if the status is no JSON object.
absl::StatusOr<std::string> TopView(const TopSample& now,
                                    const std::optional<TopSample>& before,
                                    int columns);

}  // namespace h2o
