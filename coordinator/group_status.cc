// Percentiles of step times.
#include "coordinator/group_status.h"

#include <algorithm>
#include <cmath>

namespace h2o {

double Percentile(std::vector<float> values, double share) {
  if (values.empty()) return 0;
  const auto last = static_cast<double>(values.size() - 1);
  const auto at = values.begin() + std::lround(share * last);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace h2o
