// Picks a quantile out of measured values.
#include "base/quantile.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace h2o {

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const size_t i =
      std::min(values.size() - 1, static_cast<size_t>(q * values.size()));
  std::nth_element(values.begin(), values.begin() + i, values.end());
  return values[i];
}

}  // namespace h2o
