// The ceilings of the machine at hand, measured: what a benchmark's figure is
// printed beside.
#pragma once

namespace h2o {

struct MachineRates {
  double read_bytes_per_second = 0;   // streaming reads from memory
  double sgemm_flops_per_second = 0;  // float32 products of large matrices
  double bf16_flops_per_second = 0;   // bf16 units; 0: there are none
};

// Takes about a second, the best of several tries on `num_threads` threads.
MachineRates MeasureMachineRates(int num_threads);

}  // namespace h2o
