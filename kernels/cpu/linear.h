// Linear layers on the CPU: few rows by kernels of our own (small_linear.h,
// whole_linear.h), many through oneDNN (matrix_product.h), a slice of the
// outputs a thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/team.h"

namespace h2o::cpu {

class LinearProducts {
 public:
  // For layers of at most `max_inputs` inputs and `max_rows` rows.
  // bf16_products: multiply bf16 weights in the CPU's bf16 units, where it has
  // them; Run then rounds x to bf16.  Of few rows it multiplies int8 and int4
  // weights in whole numbers, and rounds x to 16 bits.
  // fp8_inputs: round x to e4m3 where weights are fp8.  The GPU multiplies
  // codes; here their numbers are multiplied, which is no faster than x was.
  LinearProducts(int64_t max_inputs, int64_t max_rows, bool bf16_products,
                 bool fp8_inputs, int num_threads);

  // What Run works in.
  Team::Scratch scratch() const;

  // Backend::Linear.
  void Run(Matrix x, const LinearWeights& weights, Epilogue epilogue, Matrix y,
           Team* team);

 private:
  void RunFewRows(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                  Matrix y, Team* team) const;
  void RunWhole(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                Matrix y, Team* team) const;
  void RunFloat32(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                  Matrix y, Team* team) const;
  void RunBFloat16(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                   Matrix y, Team* team);
  // x as its e4m3 codes have it; valid until the next product.
  Matrix RoundToFp8(Matrix x, Team* team) const;
  int64_t WidenedRows() const;
  int64_t SharedBytes() const;

  const int64_t max_inputs_;
  const int64_t max_rows_;
  const bool rounds_inputs_;
  const bool fp8_inputs_;
  std::vector<BFloat16Product> of_threads_;  // empty: no bf16 units
};

}  // namespace h2o::cpu
