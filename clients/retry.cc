// Decides when a call that failed is made again.
#include "clients/retry.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "base/sampling.h"

namespace h2o {

std::optional<double> Retry::After(const absl::Status& status, double now,
                                   double last_answer,
                                   std::optional<double> told) {
  if (!first_failed_) first_failed_ = now;
  const bool away = absl::IsUnavailable(status) &&
                    attempts_ < kUnavailableRetries &&
                    now - *first_failed_ <= kUnavailableSeconds;
  const bool busy = absl::IsResourceExhausted(status) &&
                    !absl::StrContains(status.message(), "larger than max") &&
                    now - std::max(*first_failed_, last_answer) <= kBusySeconds;
  if (!away && !busy) return std::nullopt;
  const double wait = NextWait();
  const double asked = std::min(told.value_or(0), kMostToldSeconds);
  return std::max(wait, asked * (1 + 0.25 * UniformDraw(seed_, attempts_)));
}

double Retry::NextWait() {
  const double wait = std::min(
      kFirstSeconds * std::exp2(std::min(attempts_, 10)), kMostSeconds);
  // Calls that were refused together do not come back together.
  return wait * (0.75 + 0.5 * UniformDraw(seed_, attempts_++));
}

}  // namespace h2o
