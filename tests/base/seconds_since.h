// For tests of what must not take long.
#pragma once

#include <chrono>

namespace h2o {

using Steady = std::chrono::steady_clock;

inline double SecondsSince(Steady::time_point start) {
  return std::chrono::duration<double>(Steady::now() - start).count();
}

}  // namespace h2o
