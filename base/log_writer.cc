// The queue of lines and the thread that writes them.
#include "base/log_writer.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/functional/function_ref.h"

namespace h2o {
namespace {

// A pipe that is ready takes as many bytes without waiting (PIPE_BUF).
constexpr size_t kBlock = 4096;

// How often the thread, while nobody reads, looks whether it should stop.
constexpr int kGlanceMs = 50;

constexpr double kFarewellSeconds = 1;

using Clock = std::chrono::steady_clock;

// Writes `text`; returns false if it could not all be written, or if
// `give_up()` becomes true while nobody reads.
bool Write(int fd, std::string_view text, absl::FunctionRef<bool()> give_up) {
  while (!text.empty()) {
    pollfd out = {.fd = fd, .events = POLLOUT, .revents = 0};
    if (poll(&out, 1, kGlanceMs) == 0) {
      if (give_up()) return false;
      continue;
    }
    const ssize_t n = write(fd, text.data(), std::min(text.size(), kBlock));
    if (n < 0 && errno != EINTR && errno != EAGAIN) return false;
    text.remove_prefix(std::max<ssize_t>(n, 0));
  }
  return true;
}

// Signals are for the program's own threads.
void StartWithoutSignals(std::function<void()> run) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread(std::move(run)).detach();
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

LogWriter::LogWriter(int fd, std::function<std::string(int64_t)> dropped_line)
    : fd_(fd), dropped_line_(std::move(dropped_line)) {}

LogWriter::~LogWriter() {
  Flush(kFarewellSeconds);
  std::unique_lock lock(mutex_);
  stop_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return !has_thread_; });
}

void LogWriter::Add(std::string line) {
  std::lock_guard lock(mutex_);
  if (lines_.size() < kMaxLines) {
    Push(std::move(line));
  } else {
    ++dropped_;
  }
}

void LogWriter::AddLast(std::string line) {
  std::lock_guard lock(mutex_);
  Push(std::move(line));
}

void LogWriter::Push(std::string line) {
  line += '\n';
  lines_.push_back(std::move(line));
  if (HasThread()) changed_.notify_all();
}

void LogWriter::Flush(double seconds) {
  std::unique_lock lock(mutex_);
  const auto deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(
                         std::chrono::duration<double>(seconds));
  if (lines_.empty() || HasThread()) {
    changed_.wait_until(lock, deadline, [this] { return Idle(); });
    return;
  }
  // The system grants no thread.  A program that ends may wait itself.
  const auto too_late = [&] { return Clock::now() > deadline; };
  while (!lines_.empty() && Write(fd_, lines_.front(), too_late)) {
    lines_.pop_front();
  }
}

bool LogWriter::HasThread() {
  if (has_thread_) return true;
  try {
    StartWithoutSignals([this] { Run(); });
    has_thread_ = true;
  } catch (const std::system_error&) {
    // Lines wait until a later one finds a thread, or for Flush.
    has_thread_ = false;
  }
  return has_thread_;
}

void LogWriter::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !lines_.empty(); });
    if (stop_) break;
    const std::deque<std::string> lines = std::exchange(lines_, {});
    const int64_t dropped = std::exchange(dropped_, 0);
    writing_ = true;
    lock.unlock();
    const int64_t lost = WriteAll(lines, dropped);
    lock.lock();
    dropped_ += lost;
    writing_ = false;
    changed_.notify_all();
  }
  has_thread_ = false;
  changed_.notify_all();
}

int64_t LogWriter::WriteAll(const std::deque<std::string>& lines,
                            int64_t dropped) const {
  const auto stopped = [this] { return stop_.load(); };
  int64_t lost = 0;
  for (const std::string& line : lines) {
    lost += stop_ || !Write(fd_, line, stopped) ? 1 : 0;
  }
  // Lines were dropped because the queue was full, so after those in it.
  if (dropped > 0 && !Write(fd_, dropped_line_(dropped) + '\n', stopped)) {
    lost += dropped;
  }
  return lost;
}

}  // namespace h2o
