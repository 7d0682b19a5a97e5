// Measured limits of a machine, which benchmarks print beside their figures.
#pragma once

namespace h2o {

struct MachineRates {
  double read_bytes_per_second = 0;   // streaming reads from memory
  double sgemm_flops_per_second = 0;  // float32 products of large matrices
  double bf16_flops_per_second = 0;   // bf16 units; 0: there are none
  double fp8_flops_per_second = 0;    // fp8 units; 0: there are none
};

}  // namespace h2o
