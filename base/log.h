// H2O_LOG() << "rank 1 left": one line on stderr with the time, the program and
// its process id.  For people; nothing parses it.  Lines of several threads
// never mix.  Thread-safe.
#pragma once

#include <errno.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace h2o::internal {

class LogLine {
 public:
  LogLine() = default;
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;
  ~LogLine() {
    timeval now;
    gettimeofday(&now, nullptr);
    tm local;
    localtime_r(&now.tv_sec, &local);
    char time[32];
    std::strftime(time, sizeof(time), "%F %T", &local);
    char head[160];
    std::snprintf(head, sizeof(head), "%s.%03d %s[%d] ", time,
                  static_cast<int>(now.tv_usec / 1000),
                  program_invocation_short_name, static_cast<int>(getpid()));
    std::string line = head + text_.str();
    // What strangers say stays within the line.
    for (char& c : line) {
      if (c == '\n' || c == '\r' || c == '\x1b') c = '?';
    }
    line += '\n';
    std::fwrite(line.data(), 1, line.size(), stderr);
  }
  std::ostream& stream() { return text_; }

 private:
  std::ostringstream text_;
};

}  // namespace h2o::internal

#define H2O_LOG() ::h2o::internal::LogLine().stream()

namespace h2o {

// Lines that are found while a lock is held.  Declared before the lock, they
// are written when it has been released, so that no thread waits for stderr.
class LogLines {
 public:
  LogLines() = default;
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;
  ~LogLines() {
    for (const std::string& line : lines_) H2O_LOG() << line;
  }

  void Add(std::string line) { lines_.push_back(std::move(line)); }

 private:
  std::vector<std::string> lines_;
};

}  // namespace h2o
