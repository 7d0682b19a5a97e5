// What lines of the log look like, that nobody waits for their reader, and that
// floods are bounded.
#include "base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/limited_log.h"
#include "base/log_writer.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Lt;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

// A pipe, as stderr often is.
struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(pipe(fds), 0);
    read_end = fds[0];
    write_end = fds[1];
  }
  ~Pipe() {
    close(read_end);
    close(write_end);
  }
  // What is in it now.
  std::string Read() const {
    fcntl(read_end, F_SETFL, O_NONBLOCK);
    std::string all;
    char block[4096];
    for (ssize_t n; (n = read(read_end, block, sizeof(block))) > 0;) {
      all.append(block, n);
    }
    return all;
  }

  int read_end = -1, write_end = -1;
};

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string SayDropped(int64_t n) { return "dropped " + std::to_string(n); }

// What `log` writes to stderr, in a process of its own.
std::vector<std::string> LinesOf(const std::function<void()>& log) {
  const Pipe err;
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(err.write_end, STDERR_FILENO);
    log();
    std::exit(0);  // which writes what waits
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return Lines(err.Read());
}

TEST(Log, LinesHaveTimeLevelProgramAndRequest) {
  const std::vector<std::string> lines = LinesOf([] {
    H2O_LOG() << "rank " << 1 << " left";
    H2O_LOG(LogLevel::kWarning, "req-7") << "refused\x1b[2J\nand more";
    LogWhyItEnds("UNAVAILABLE: no workers");
  });
  ASSERT_EQ(lines.size(), 3);
  EXPECT_THAT(
      lines[0],
      MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}\\.[0-9]{3} info "
                   "log_test\\[[0-9]+\\] rank 1 left"));
  EXPECT_THAT(lines[1], HasSubstr("] request req-7: refused?[2J?and more"));
  EXPECT_THAT(lines[1], HasSubstr(" warning log_test["));
  EXPECT_EQ(lines[2], "log_test: UNAVAILABLE: no workers");
}

TEST(Log, JsonLines) {
  const std::vector<std::string> lines = LinesOf([] {
    SetLogFormat(LogFormat::kJson);
    H2O_LOG() << "rank 1 left";
    H2O_LOG(LogLevel::kError, "req \"7\"") << "no\nUTF-8: \xff";
    LogWhyItEnds("no workers");
  });
  ASSERT_EQ(lines.size(), 3);
  const auto first = nlohmann::json::parse(lines[0]);
  EXPECT_THAT(first["time"].get<std::string>(),
              MatchesRegex("[0-9-]{10}T[0-9:]{8}\\.[0-9]{3}Z"));
  EXPECT_EQ(first["level"], "info");
  EXPECT_EQ(first["program"], "log_test");
  EXPECT_GT(first["pid"], 0);
  EXPECT_EQ(first["message"], "rank 1 left");
  EXPECT_FALSE(first.contains("request_id"));
  const auto second = nlohmann::json::parse(lines[1]);
  EXPECT_EQ(second["request_id"], "req \"7\"");
  EXPECT_EQ(second["message"], "no\nUTF-8: \xef\xbf\xbd");
  EXPECT_EQ(nlohmann::json::parse(lines[2])["level"], "fatal");
}

TEST(Log, LongTextsAreCut) {
  const std::vector<std::string> lines =
      LinesOf([] { H2O_LOG() << std::string(1 << 20, 'x'); });
  ASSERT_EQ(lines.size(), 1);
  EXPECT_LT(lines[0].size(), 4200);
  EXPECT_THAT(lines[0], ::testing::EndsWith("xxx ..."));
}

TEST(Log, AForkedProcessLogsItsOwnLines) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers do not follow a fork of several threads";
#endif
  const std::vector<std::string> lines = LinesOf([] {
    H2O_LOG() << "the parent's";
    const pid_t pid = fork();
    if (pid == 0) {
      H2O_LOG() << "the child's";
      std::exit(0);
    }
    waitpid(pid, nullptr, 0);
  });
  ASSERT_EQ(lines.size(), 2);
  EXPECT_THAT(lines, ::testing::Contains(HasSubstr("the parent's")));
  EXPECT_THAT(lines, ::testing::Contains(HasSubstr("the child's")));
}

TEST(Log, ABrokenInvariantIsTheLastLine) {
  const std::vector<std::string> lines = LinesOf([] {
    H2O_LOG() << "before";
    H2O_CHECK(1 > 2) << "as ever";
  });
  ASSERT_EQ(lines.size(), 2);
  EXPECT_THAT(lines[1], StartsWith("log_test: "));
  EXPECT_THAT(lines[1], HasSubstr("check failed: 1 > 2 as ever"));
}

class FakeClock final : public Clock {
 public:
  double Now() const override { return now; }
  double now = 100;
};

TEST(LimitedLog, SaysHowManyLinesWereLeftOut) {
  const std::vector<std::string> lines = LinesOf([] {
    FakeClock clock;
    LimitedLog log(&clock);
    for (int i = 0; i < 50; ++i) log.Add(LogLevel::kWarning, "", "refused");
    clock.now += 0.25;
    for (int i = 0; i < 50; ++i) log.Add(LogLevel::kWarning, "", "again");
  });
  ASSERT_EQ(lines.size(), 12);
  EXPECT_THAT(lines[9], ::testing::EndsWith("] refused"));
  EXPECT_THAT(lines[10],
              ::testing::EndsWith(
                  "] again (40 lines like this one were left out before it)"));
  EXPECT_THAT(lines[11], ::testing::EndsWith("] again"));
}

TEST(LogWriter, NobodyWaitsForAReaderThatDoesNotRead) {
  const Pipe pipe;
  LogWriter writer(pipe.write_end, SayDropped);
  const std::string line(1000, 'x');
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 10'000; ++i) writer.Add(line);
  writer.AddLast("the last");
  EXPECT_THAT(std::chrono::steady_clock::now() - start,
              Lt(std::chrono::seconds(2)));

  // When it reads again, it learns what it missed.
  std::string read;
  int64_t written = 0, dropped = 0, last = 0;
  for (int i = 0; i < 2000 && written + dropped + last < 10'001; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    read += pipe.Read();
    written = dropped = last = 0;
    for (const std::string& each :
         Lines(read.substr(0, read.rfind('\n') + 1))) {
      written += each == line ? 1 : 0;
      last += each == "the last" ? 1 : 0;
      if (each.starts_with("dropped ")) dropped += std::stoll(each.substr(8));
    }
  }
  EXPECT_EQ(last, 1);
  EXPECT_GT(dropped, 0);
  EXPECT_EQ(written + dropped, 10'000);
}

TEST(LogWriter, EndsThoughNobodyReads) {
  const Pipe pipe;
  const auto start = std::chrono::steady_clock::now();
  {
    LogWriter writer(pipe.write_end, SayDropped);
    for (int i = 0; i < 1000; ++i) writer.Add(std::string(1000, 'x'));
  }
  EXPECT_THAT(std::chrono::steady_clock::now() - start,
              Lt(std::chrono::seconds(5)));
}

TEST(LogWriter, AReaderThatIsGoneIsNoFault) {
  Pipe pipe;
  LogWriter writer(pipe.write_end, SayDropped);
  close(std::exchange(pipe.read_end, dup(pipe.write_end)));
  writer.Add("to nobody");
  writer.Flush(5);
}

}  // namespace
}  // namespace h2o
