// What one rendering may cost.  A template comes with a model that somebody
// uploaded, and its input from anybody, so neither may hold up the server or
// take its memory.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace h2o::jinja {

struct Limits {
  int64_t steps = 4'000'000;        // parts of the template that are evaluated
  int64_t bytes = 256 << 20;        // of all values that are made
  int64_t output_bytes = 32 << 20;  // of the text that comes out
  int depth = 300;                  // of evaluations within each other
};

class Work {
 public:
  explicit Work(const Limits& limits) : limits_(limits) {}

  // Errors of all: INVALID_ARGUMENT once the limit is reached.
  absl::Status Step(int64_t steps = 1) {
    steps_ += steps;
    if (steps_ <= limits_.steps) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("it takes more than ", limits_.steps, " steps"));
  }
  // Looking for `pattern_bytes` in `bytes`, which may compare each with each.
  absl::Status Scan(int64_t bytes, int64_t pattern_bytes) {
    return Step(1 + bytes / 256 * (pattern_bytes + 1));
  }
  absl::Status Make(int64_t bytes) {
    bytes_ += bytes;
    if (bytes_ <= limits_.bytes) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("its values take more than ", limits_.bytes, " bytes"));
  }

  const Limits& limits() const { return limits_; }

 private:
  const Limits limits_;
  int64_t steps_ = 0, bytes_ = 0;
};

}  // namespace h2o::jinja
