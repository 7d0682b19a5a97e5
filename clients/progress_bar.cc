// Draws a progress bar on a terminal.
#include "clients/progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace h2o {
namespace {
constexpr int kWidth = 40;
}  // namespace

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), shown_(::isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (shown_ && percent_ >= 0) std::fputs("\r\033[K", stderr);
}

void ProgressBar::Set(double fraction) {
  const int percent = static_cast<int>(100 * std::clamp(fraction, 0.0, 1.0));
  if (!shown_ || percent == percent_) return;
  percent_ = percent;
  const int full = percent * kWidth / 100;
  std::fprintf(stderr, "\r%s [%s%s] %3d %%", label_.c_str(),
               std::string(full, '#').c_str(),
               std::string(kWidth - full, '.').c_str(), percent);
  std::fflush(stderr);
}

}  // namespace h2o
