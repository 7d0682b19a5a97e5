// Rows of random numbers that tests of linear layers multiply.
#pragma once

#include <random>
#include <vector>

#include "kernels/backend.h"

namespace h2o {

// Normal numbers in float32; padding columns are zero.
struct Activations {
  Activations(int rows, int columns, int seed)
      : data(rows * AlignedStride(columns)),
        view{data.data(), rows, columns, AlignedStride(columns)} {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) view.Row(r)[c] = normal(random);
    }
  }
  std::vector<float> data;
  Matrix view;
};

}  // namespace h2o
