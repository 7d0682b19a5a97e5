// Writes a checkpoint again with the weights of its linear layers as codes, in
// the layout that docs/weights.md describes.
//
// A layer's weights at a time are in memory and, with calibration, the hidden
// states of all its tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "base/weight_format.h"

namespace h2o {

struct QuantizeOptions {
  std::string model;  // a directory
  std::string out;    // another, which is new or empty
  WeightCoding coding;
  std::string text;  // file to calibrate on; empty: every weight by itself
  int64_t tokens = 16'384;  // of it
  int num_threads = 1;
  std::function<void(double fraction)> progress;  // may be empty
};

// What was done.
struct QuantizeReport {
  int64_t weights = 0;  // tensors that became codes
  int64_t tokens = 0;   // of text that they were calibrated on
  int64_t bytes_before = 0, bytes_after = 0;  // of all tensors
};

// `out` appears complete or not at all.  The same bytes for every number of
// threads.
// Errors: INVALID_ARGUMENT for an `out` in `model` or the other way round;
// those of OpenSourceModel, NewDirectory, ReadCalibrationText, Rounder and
// CodedCheckpoint.
absl::StatusOr<QuantizeReport> Quantize(const QuantizeOptions& options);

}  // namespace h2o
