// What a line of the log looks like, and the log of this process.
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log_writer.h"

namespace h2o {
namespace {

constexpr size_t kMaxTextBytes = 4000;

// What lines get to be written before one in distress.
constexpr int kDistressMs = 50;

// How long a program that ends waits for its last lines to be read.
constexpr double kFarewellSeconds = 1;

const char* NameOf(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
    case LogLevel::kFatal:
      return "fatal";
  }
  return "unknown";
}

// With milliseconds.
std::string TimeText(bool utc) {
  timeval now;
  gettimeofday(&now, nullptr);
  tm parts;
  utc ? gmtime_r(&now.tv_sec, &parts) : localtime_r(&now.tv_sec, &parts);
  char text[32], all[48];
  std::strftime(text, sizeof(text), utc ? "%FT%T" : "%F %T", &parts);
  std::snprintf(all, sizeof(all), "%s.%03d%s", text,
                static_cast<int>(now.tv_usec / 1000), utc ? "Z" : "");
  return all;
}

std::string TextLine(LogLevel level, std::string_view request_id,
                     std::string_view text) {
  std::string line;
  if (level == LogLevel::kFatal) {
    line = absl::StrCat(program_invocation_short_name, ": ");
  } else {
    line = absl::StrCat(TimeText(/*utc=*/false), " ", NameOf(level), " ",
                        program_invocation_short_name, "[", getpid(), "] ");
  }
  if (!request_id.empty()) {
    line.append("request ").append(request_id).append(": ");
  }
  line += text;
  // What strangers say stays within the line, and does nothing to a terminal.
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  }
  return line;
}

std::string JsonLine(LogLevel level, std::string_view request_id,
                     std::string_view text) {
  using Json = nlohmann::ordered_json;
  Json line = {{"time", TimeText(/*utc=*/true)},
               {"level", NameOf(level)},
               {"program", program_invocation_short_name},
               {"pid", getpid()}};
  if (!request_id.empty()) line["request_id"] = request_id;
  line["message"] = text;
  // A text that is not UTF-8 gets U+FFFD in place of what is not.
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

struct ProcessLog {
  std::atomic<LogFormat> format = LogFormat::kText;
  // Both live as long as the process.
  LogWriter* writer = nullptr;
  LogWriter* of_parent = nullptr;  // in a forked process, which never uses it
};

ProcessLog& TheLog();

std::string LineOf(LogLevel level, std::string_view request_id,
                   std::string_view text) {
  const bool cut = text.size() > kMaxTextBytes;
  const std::string shown =
      std::string(text.substr(0, kMaxTextBytes)) + (cut ? " ..." : "");
  return TheLog().format == LogFormat::kJson
             ? JsonLine(level, request_id, shown)
             : TextLine(level, request_id, shown);
}

LogWriter* MakeWriter() {
  return new LogWriter(STDERR_FILENO, [](int64_t dropped) {
    return LineOf(LogLevel::kWarning, "",
                  absl::StrCat("the log was not read in time; ", dropped,
                               " lines were dropped"));
  });
}

ProcessLog* MakeLog() {
  auto* log = new ProcessLog{.writer = MakeWriter()};
  // A forked process has no thread but the one that forked; what waits in the
  // queue is its parent's to write.
  pthread_atfork(nullptr, nullptr, [] {
    TheLog().of_parent = std::exchange(TheLog().writer, MakeWriter());
  });
  std::atexit([] { TheLog().writer->Flush(kFarewellSeconds); });
  return log;
}

ProcessLog& TheLog() {
  static ProcessLog* const log = MakeLog();
  return *log;
}

}  // namespace

void SetLogFormat(LogFormat format) { TheLog().format = format; }

void Log(LogLevel level, std::string_view request_id, std::string_view text) {
  TheLog().writer->Add(LineOf(level, request_id, text));
}

void LogAsItIs(std::string line) { TheLog().writer->Add(std::move(line)); }

void LogInDistress(const char* text) {
  char line[1024];
  const int length =
      TheLog().format == LogFormat::kJson
          ? std::snprintf(line, sizeof(line),
                          "{\"level\":\"fatal\",\"program\":\"%s\",\"pid\":%d,"
                          "\"message\":\"%s\"}\n",
                          program_invocation_short_name, getpid(), text)
          : std::snprintf(line, sizeof(line), "%s: %s\n",
                          program_invocation_short_name, text);
  poll(nullptr, 0, kDistressMs);  // for the lines before it
  pollfd err = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&err, 1, static_cast<int>(kFarewellSeconds * 1000)) <= 0) return;
  // Nothing can be done about an error here.
  if (write(STDERR_FILENO, line, std::min<size_t>(length, sizeof(line) - 1)) <
      0) {
    return;
  }
}

void LogWhyItEnds(std::string_view text) {
  TheLog().writer->AddLast(LineOf(LogLevel::kFatal, "", text));
  TheLog().writer->Flush(kFarewellSeconds);
}

}  // namespace h2o
