// Decides when a call that failed is made again.
#include "clients/cpp/retry.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "base/sampling.h"

namespace h2o {

std::optional<double> Retry::After(const absl::Status& status, double now,
                                   double last_answer,
                                   std::optional<double> told) {
  if (!options_.enabled) return std::nullopt;
  if (!first_failed_) first_failed_ = now;
  const bool away = absl::IsUnavailable(status) &&
                    attempts_ < options_.unavailable_attempts &&
                    now - *first_failed_ <= options_.unavailable_seconds;
  const bool busy =
      absl::IsResourceExhausted(status) &&
      !absl::StrContains(status.message(), "larger than max") &&
      now - std::max(*first_failed_, last_answer) <= options_.busy_seconds;
  if (!away && !busy) return std::nullopt;
  const double wait = NextWait();
  const double asked = std::min(told.value_or(0), kMostToldSeconds);
  return std::max(wait, asked * (1 + 0.25 * UniformDraw(seed_, draws_++)));
}

void Retry::Restart() {
  attempts_ = 0;
  first_failed_.reset();
}

double Retry::NextWait() {
  const double wait = std::min(
      options_.first_pause_seconds * std::exp2(std::min(attempts_++, 10)),
      options_.longest_pause_seconds);
  // Calls that were refused together do not come back together.
  return wait * (0.75 + 0.5 * UniformDraw(seed_, draws_++));
}

}  // namespace h2o
