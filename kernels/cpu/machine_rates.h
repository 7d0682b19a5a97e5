// Measures the limits of this CPU, which benchmarks print beside their figures.
#pragma once

#include "kernels/machine_rates.h"

namespace h2o {

// Takes about a second, the best of several tries on `num_threads` threads.
MachineRates MeasureMachineRates(int num_threads);

}  // namespace h2o
