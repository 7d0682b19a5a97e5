// Random numbers for tests of kernels, and the rounding that they may show.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "base/dtype.h"

namespace h2o {

// Uniform in [-scale, scale) plus `shift`.
inline std::vector<float> Uniform(int64_t size, uint64_t seed, float scale,
                                  float shift = 0) {
  std::mt19937 random(seed);
  std::vector<float> x(size);
  for (float& v : x) {
    v = (static_cast<float>(random()) * 0x1.0p-31f - 1) * scale + shift;
  }
  return x;
}

inline std::vector<float> Normal(int64_t size, uint64_t seed, float deviation) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(size);
  for (float& v : x) v = deviation * normal(random);
  return x;
}

// Half a unit in the last place, relative: the most that one rounding costs.
constexpr double HalfUlp(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 0x1.0p-24;
    case DType::kBFloat16:
      return 0x1.0p-8;
    case DType::kFloat16:
      return 0x1.0p-11;
  }
  return 0;
}

}  // namespace h2o
