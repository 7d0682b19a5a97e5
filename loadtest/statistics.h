// Percentiles with their uncertainty, and fairness.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace h2o {

// The q-quantile (0..1) between the two nearest values, as numpy.percentile has
// it by default (Hyndman and Fan, "Sample quantiles in statistical packages",
// 1996, definition 7).  `sorted` ascends; 0 if it is empty.
double QuantileOfSorted(const std::vector<double>& sorted, double q);

// A measured value of one request; a request may have many.
struct Sample {
  double value = 0;
  int request = 0;
};

struct Estimate {
  double value = 0;
  double low = 0, high = 0;  // of the 95 % bootstrap interval
};

inline constexpr std::array<double, 4> kQuantiles = {0.5, 0.9, 0.95, 0.99};

struct Distribution {
  int64_t count = 0;
  double mean = 0, min = 0, max = 0;
  std::array<Estimate, kQuantiles.size()> quantiles;
  std::vector<double> sorted;  // all values
};

// The intervals come from resampling requests with all their values (Efron,
// "Bootstrap methods: another look at the jackknife", 1979): values of one
// request depend on each other.  Same seed, same intervals.
Distribution Describe(const std::vector<Sample>& samples, uint64_t seed);

// Jain, Chiu and Hawe, "A quantitative measure of fairness", 1984: 1 if all
// values are equal, 1/n if one has all.  1 without values.
double JainIndex(const std::vector<double>& values);

}  // namespace h2o
