// The ceilings of the machine at hand, measured: what a benchmark's figure is
// printed beside.
#pragma once

#include "kernels/machine_rates.h"

namespace h2o {

// Takes about a second, the best of several tries on `num_threads` threads.
MachineRates MeasureMachineRates(int num_threads);

}  // namespace h2o
