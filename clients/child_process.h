// A program started from this one: its process, its log and how it ended.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "parallel/unique_fd.h"

namespace h2o {

// Errors: INTERNAL if the system grants no pipe.  Both ends close on exec.
absl::Status MakePipe(UniqueFd* read_end, UniqueFd* write_end);

// Whole lines of what a child writes.  A line that does not end is given in
// pieces, so that it takes neither memory nor time without end.
class LineReader {
 public:
  static constexpr size_t kMaxLine = 64 << 10;

  explicit LineReader(UniqueFd fd) : fd_(std::move(fd)) {}
  int fd() const { return fd_.get(); }

  // Reads what is there; closes at the end.  REQUIRES: poll said so.
  std::vector<std::string> Read();

 private:
  UniqueFd fd_;
  std::string rest_;
};

struct Child {
  std::string name;     // "the coordinator", "worker 1"
  std::string program;  // "h2oserve-worker"
  pid_t pid = 0;
  LineReader log{UniqueFd()};     // its stderr
  LineReader output{UniqueFd()};  // its stdout, if that was asked for
  std::string last_words;         // the line with which it said why it ends
  std::optional<int> status;      // of waitpid, once it has ended
  bool reported = false;          // its end has been logged
  std::optional<double> lost_at;  // when the group of this worker was lost
  std::optional<double> left_at;  // when it was let go, in order
};

// Starts `program` with `arguments`; `events`, if not -1, stays open in it. The
// child ends when this process does.  What it prints is dropped, unless
// `with_output`.  Errors: INTERNAL.
absl::Status Start(const std::filesystem::path& program,
                   const std::vector<std::string>& arguments, int events,
                   Child* child, bool with_output = false);

// Why `program` ends, if `line` of its log says so, as text or as JSON.
std::optional<std::string> LastWordsIn(const std::string& line,
                                       const std::string& program);

// Whether a process ended as it does when it is told to stop, or when its
// coordinator is.  Also by SIGTERM, which may come before a process listens to
// it.
bool EndedInOrder(int status);

// "worker 1 (pid 12) was killed by signal 9 (Killed)".  REQUIRES: it has ended.
std::string HowItEnded(const Child& child);

}  // namespace h2o
