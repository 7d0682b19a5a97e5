// Measures the limits of a GPU, which benchmarks print beside their figures.
#pragma once

namespace h2o::cuda {

// Bytes a second that a kernel reads from memory, over buffers much larger
// than the cache.
double MeasureReadRate();

// Operations a second of a product of 8192 x 8192 bf16 matrices of random
// numbers, through cuBLAS.
double MeasureMatrixRate();
// The same of e4m3 codes with a scale for each row of both, through cuBLASLt,
// with sums in float32, 200 on end.  0: this GPU has none.
double MeasureFp8Rate();

}  // namespace h2o::cuda
