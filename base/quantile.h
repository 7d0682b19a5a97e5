// A quantile of measured values.
#pragma once

#include <vector>

namespace h2o {

// The q-quantile (0..1) of `values`, 0 without any.
double Quantile(std::vector<double> values, double q);

}  // namespace h2o
