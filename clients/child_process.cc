// Starts child processes and reads what they say.
#include "clients/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "flags/exit_code.h"

namespace h2o {

absl::Status MakePipe(UniqueFd* read_end, UniqueFd* write_end) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("pipe: ", strerror(errno)));
  }
  *read_end = UniqueFd(fds[0]);
  *write_end = UniqueFd(fds[1]);
  return absl::OkStatus();
}

std::vector<std::string> LineReader::Read() {
  char block[4096];
  const ssize_t n = read(fd_.get(), block, sizeof(block));
  if (n <= 0) {
    if (n == 0 || errno != EINTR) fd_.Close();
    if (rest_.empty()) return {};
    return {std::exchange(rest_, "")};
  }
  std::vector<std::string> lines;
  std::string_view news(block, n);  // only these may hold the end of a line
  for (size_t end; (end = news.find('\n')) != std::string_view::npos;) {
    rest_.append(news.substr(0, end));
    lines.push_back(std::exchange(rest_, ""));
    news.remove_prefix(end + 1);
  }
  rest_.append(news);
  if (rest_.size() > kMaxLine) lines.push_back(std::exchange(rest_, ""));
  return lines;
}

absl::Status Start(const std::filesystem::path& program,
                   const std::vector<std::string>& arguments, int events,
                   Child* child, bool with_output) {
  UniqueFd log, log_of_child, output, output_of_child;
  H2O_RETURN_IF_ERROR(MakePipe(&log, &log_of_child));
  if (with_output) H2O_RETURN_IF_ERROR(MakePipe(&output, &output_of_child));
  std::vector<char*> argv;
  argv.push_back(const_cast<char*>(program.c_str()));
  for (const std::string& a : arguments) {
    argv.push_back(const_cast<char*>(a.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    return absl::InternalError(absl::StrCat("fork: ", strerror(errno)));
  }
  if (pid == 0) {
    // Ctrl-C in the terminal reaches the parent alone, which stops its children
    // in order.  When the parent ends, in whatever way, this process is killed.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    const int null = open("/dev/null", O_RDWR);
    dup2(null, STDIN_FILENO);
    dup2(with_output ? output_of_child.get() : null, STDOUT_FILENO);
    dup2(log_of_child.get(), STDERR_FILENO);
    if (events >= 0) fcntl(events, F_SETFD, 0);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  child->program = program.filename().string();
  child->pid = pid;
  child->log = LineReader(std::move(log));
  child->output = LineReader(std::move(output));
  return absl::OkStatus();
}

std::optional<std::string> LastWordsIn(const std::string& line,
                                       const std::string& program) {
  const std::string mark = program + ": ";
  if (absl::StartsWith(line, mark)) return line.substr(mark.size());
  if (!absl::StrContains(line, "\"fatal\"")) return std::nullopt;
  using Json = nlohmann::json;
  const Json parsed =
      Json::parse(line, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object() || !parsed.contains("level") ||
      parsed["level"] != "fatal" || !parsed.contains("message") ||
      !parsed["message"].is_string()) {
    return std::nullopt;
  }
  return parsed["message"].get<std::string>();
}

bool EndedInOrder(int status) {
  if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGTERM;
  return WEXITSTATUS(status) == kDone || WEXITSTATUS(status) == kLetGo;
}

std::string HowItEnded(const Child& child) {
  const int status = *child.status;
  std::string how =
      WIFSIGNALED(status)
          ? absl::StrCat("was killed by signal ", WTERMSIG(status), " (",
                         strsignal(WTERMSIG(status)), ")")
          : absl::StrCat("ended with ", WEXITSTATUS(status));
  if (!child.last_words.empty()) absl::StrAppend(&how, ": ", child.last_words);
  return absl::StrCat(child.name, " (pid ", child.pid, ") ", how);
}

}  // namespace h2o
