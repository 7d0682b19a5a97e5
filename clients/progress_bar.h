// A progress bar on stderr, if that is a terminal; else silent.
#pragma once

#include <string>

namespace h2o {

class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();  // clears the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Redraws when the shown percentage has changed.
  void Set(double fraction);

 private:
  const std::string label_;
  const bool shown_;
  int percent_ = -1;
};

}  // namespace h2o
