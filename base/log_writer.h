// Writes lines to a file descriptor from a thread of its own, so that threads
// that add lines never wait for the reader.
//
// Threads  every method but the destructor by any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>

namespace h2o {

class LogWriter {
 public:
  // Lines that may wait to be written; more are dropped.
  static constexpr size_t kMaxLines = 1024;

  // `dropped_line` makes the line that says how many lines were dropped. `fd`
  // stays the caller's.
  LogWriter(int fd, std::function<std::string(int64_t dropped)> dropped_line);

  // Waits at most a second for lines to be written.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Adds `line`, without its end.  Never waits for the reader.
  void Add(std::string line);
  // The same, also if the queue is full: for the line that must not be missing.
  void AddLast(std::string line);

  // Waits until the lines added so far are written or dropped, at most
  // `seconds`.
  void Flush(double seconds);

 private:
  // REQUIRES (all): mutex_ is held.
  void Push(std::string line);
  // The thread starts with the first line.
  bool HasThread();
  bool Idle() const { return lines_.empty() && !writing_; }

  void Run();
  // Returns how many lines were not written.
  int64_t WriteAll(const std::deque<std::string>& lines, int64_t dropped) const;

  const int fd_;
  const std::function<std::string(int64_t)> dropped_line_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::string> lines_;
  int64_t dropped_ = 0;  // since the log last said so
  bool has_thread_ = false;
  bool writing_ = false;

  std::atomic<bool> stop_ = false;
};

}  // namespace h2o
