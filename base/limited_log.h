// Lines that strangers and clients can cause: a bounded number of them is
// logged, and the next line says how many were not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"

namespace h2o {

// Threads  any.
class LimitedLog {
 public:
  // As many lines at once, and as many a second.
  static constexpr double kLines = 10;

  // `clock` must outlive this object.
  explicit LimitedLog(const Clock* clock)
      : clock_(clock), filled_(clock->Now()) {}

  void Add(LogLevel level, std::string_view request_id, std::string text) {
    std::lock_guard lock(mutex_);
    const double now = clock_->Now();
    left_ = std::min(kLines, left_ + (now - filled_) * kLines);
    filled_ = now;
    if (left_ < 1) {
      ++left_out_;
      return;
    }
    left_ -= 1;
    if (left_out_ > 0) {
      absl::StrAppend(&text, " (", left_out_,
                      " lines like this one were left out before it)");
    }
    left_out_ = 0;
    Log(level, request_id, text);
  }

 private:
  const Clock* const clock_;
  std::mutex mutex_;  // guards what follows
  double filled_;
  double left_ = kLines;  // lines that may be logged now
  int64_t left_out_ = 0;
};

}  // namespace h2o
