// Starts a server for one command, and stops it with the command.
#include "clients/server_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "flags/exit_code.h"

namespace h2o {
namespace {

// For a server that was told to stop.
constexpr auto kFarewell = std::chrono::seconds(10);
constexpr auto kGlance = std::chrono::milliseconds(20);

}  // namespace

absl::StatusOr<std::unique_ptr<ServerProcess>> ServerProcess::Start(
    const std::vector<std::string>& flags, const std::function<bool()>& stop) {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  std::vector<std::string> arguments = {"serve"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  arguments.push_back("--listen=127.0.0.1:0");
  arguments.push_back("--http=127.0.0.1:0");
  std::unique_ptr<ServerProcess> server(new ServerProcess);
  H2O_RETURN_IF_ERROR(h2o::Start(program, arguments, /*events=*/-1,
                                 &server->child_, /*with_output=*/true));
  H2O_RETURN_IF_ERROR(server->WaitUntilReady(stop));
  // Its log must be read, or it waits for its reader.
  server->reader_ = std::thread([server = server.get()] {
    while (server->child_.log.fd() >= 0) server->Listen();
  });
  return server;
}

absl::Status ServerProcess::WaitUntilReady(const std::function<bool()>& stop) {
  child_.name = "the server";
  while (url_.empty()) {
    if (stop()) return absl::CancelledError("stopped while the server started");
    Listen();
    if (!HasEnded()) continue;
    while (child_.log.fd() >= 0) Listen();  // its last words
    const int status = *child_.status;
    const bool refused = WIFEXITED(status) && WEXITSTATUS(status) == kBadInput;
    if (refused && !child_.last_words.empty()) {
      return absl::InvalidArgumentError(child_.last_words);
    }
    return absl::UnavailableError(HowItEnded(child_));
  }
  return absl::OkStatus();
}

void ServerProcess::Listen() {
  pollfd fds[] = {{child_.log.fd(), POLLIN, 0},  // poll skips -1
                  {child_.output.fd(), POLLIN, 0}};
  poll(fds, 2, 100);
  if (fds[0].revents != 0) {
    for (const std::string& line : child_.log.Read()) {
      if (auto why = LastWordsIn(line, child_.program)) {
        child_.last_words = *std::move(why);
      }
    }
  }
  if (fds[1].revents == 0) return;
  for (const std::string& line : child_.output.Read()) {
    absl::string_view where = line;
    if (absl::ConsumePrefix(&where, "http on ")) {
      url_ = absl::StrCat("http://", where);
    }
  }
}

bool ServerProcess::HasEnded() {
  int status = 0;
  if (!child_.status && waitpid(child_.pid, &status, WNOHANG) == child_.pid) {
    child_.status = status;
  }
  return child_.status.has_value();
}

ServerProcess::~ServerProcess() {
  if (child_.pid > 0 && !HasEnded()) {
    kill(child_.pid, SIGTERM);
    const auto deadline = std::chrono::steady_clock::now() + kFarewell;
    while (!HasEnded() && std::chrono::steady_clock::now() < deadline) {
      // Without its reader the log may be full.
      if (reader_.joinable()) {
        std::this_thread::sleep_for(kGlance);
      } else {
        Listen();
      }
    }
    if (!child_.status) {
      kill(child_.pid, SIGKILL);
      waitpid(child_.pid, nullptr, 0);
    }
  }
  if (reader_.joinable()) reader_.join();
}

}  // namespace h2o
