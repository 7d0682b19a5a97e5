// The log: lines on stderr, as text for people or as JSON for machines.
//
//   H2O_LOG() << "rank 1 left";
//   H2O_LOG(LogLevel::kWarning, request_id) << "refused: " << reason;
//
// A line carries its time, its level, the program with its process id and, if
// it is about one request, the id of that.
//
// Logging never blocks, even if stderr is not read: lines are queued, and a
// thread writes them (log_writer.h).  If the queue is full, lines are dropped,
// and the log says how many.  So logging is allowed while a lock is held.
//
// Threads  any.  Lines of several threads never mix.
#pragma once

#include <sstream>
#include <string>
#include <string_view>
#include <utility>

namespace h2o {

enum class LogLevel {
  kInfo,
  kWarning,  // somebody should know: a refusal, a lost worker
  kError,
  kFatal,  // why the program ends
};

enum class LogFormat { kText, kJson };

// Default: text.  Called before the first line.
void SetLogFormat(LogFormat format);

// Adds a line.  `request_id` may be empty.  `text` is cut to 4,000 bytes, and
// control characters in it are replaced.
void Log(LogLevel level, std::string_view request_id, std::string_view text);

// Adds a line that another program has logged, as it is.
void LogAsItIs(std::string line);

// The last line of a program: "PROGRAM: text", or JSON with level "fatal".
// Returns when all lines are written, after a second at the latest.
void LogWhyItEnds(std::string_view text);

// The same where nothing may be asked of the system: no memory, no lock, no
// thread.  For handlers of signals and of std::terminate.  `text` is plain
// ASCII without quotes.
void LogInDistress(const char* text);

namespace internal {

// Gathers one line.
class LogLine {
 public:
  explicit LogLine(LogLevel level = LogLevel::kInfo,
                   std::string request_id = "")
      : level_(level), request_id_(std::move(request_id)) {}
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;
  ~LogLine() { Log(level_, request_id_, text_.str()); }

  std::ostream& stream() { return text_; }

 private:
  const LogLevel level_;
  const std::string request_id_;
  std::ostringstream text_;
};

}  // namespace internal
}  // namespace h2o

#define H2O_LOG(...) ::h2o::internal::LogLine(__VA_ARGS__).stream()
