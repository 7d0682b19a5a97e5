// `h2oserve serve`: a coordinator and its workers as processes of this host,
// started, watched and stopped together.
//
// The programs lie beside this one.  They end when it ends, in whatever way. If
// one of them is lost, all are stopped and the error names it.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/entropy.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "clients/child_process.h"
#include "clients/commands.h"
#include "flags/flags.h"
#include "parallel/unique_fd.h"

namespace h2o {
namespace {

// After a loss, how long to wait for reports before the first culprit is
// decided.
constexpr double kBlameSeconds = 1;

// After a loss the other programs may take this long to stop.
constexpr double kFarewellSeconds = 3;

struct ServeFlags {
  CoordinatorFlags coordinator;
  ShardFlags shard;
  bool tcp_only = false;
  int workers = 0;                         // 0: tp * groups
  uint64_t memory_group = RandomBits64();  // of all workers

  // The options to pass on to the coordinator and to the workers.
  std::vector<const CLI::Option*> for_coordinator, for_workers;
};

std::vector<std::string> AsGiven(
    const std::vector<const CLI::Option*>& options) {
  std::vector<std::string> arguments;
  for (const CLI::Option* option : options) {
    for (const std::string& value : option->results()) {
      arguments.push_back(
          absl::StrCat("--", option->get_lnames()[0], "=", value));
    }
  }
  return arguments;
}

// The folder of this program, in which the others are.
absl::StatusOr<std::filesystem::path> FindPrograms() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  std::filesystem::path folder = self.parent_path();
  for (const char* program : {"h2oserve-coordinator", "h2oserve-worker"}) {
    if (!std::filesystem::exists(folder / program, error)) {
      return absl::FailedPreconditionError(
          absl::StrCat(program, " is not in ", folder.string(),
                       ", beside h2oserve; build it with -DH2O_WITH_GRPC=ON"));
    }
  }
  return folder;
}

// A wildcard is where a server listens, not where it can be called.
std::string CallableAddress(const std::string& address) {
  absl::StatusOr<HostPort> where = ParseHostPort(address);
  if (!where.ok()) return address;
  if (where->host == "0.0.0.0") where->host = "127.0.0.1";
  if (where->host == "::") where->host = "::1";
  return where->ToString();
}

std::vector<std::string> WorkerArguments(const ServeFlags& flags,
                                         const std::string& coordinator,
                                         int worker) {
  const ShardFlags& shard = flags.shard;
  std::vector<std::string> arguments = AsGiven(flags.for_workers);
  arguments.push_back(absl::StrCat("--coordinator=", coordinator));
  if (shard.threads == 0) {
    arguments.push_back(absl::StrCat(
        "--threads=", std::max(1, AvailableCores() / flags.workers)));
  }
  // All groups share out this host's memory together.  A GPU is one rank's
  // alone.
  if (shard.device == "cpu") {
    arguments.push_back(
        absl::StrCat("--memory-group=serve-", absl::Hex(flags.memory_group)));
    arguments.push_back(absl::StrCat(
        "--memory-ranks=", flags.coordinator.tp * flags.coordinator.groups));
  }
  if (shard.memory_share > 0) {
    arguments.push_back(absl::StrCat("--memory-share=", shard.memory_share));
  }
  arguments.push_back(absl::StrCat(
      "--device=",
      shard.device == "cuda" ? absl::StrCat("cuda:", worker) : shard.device));
  return arguments;
}

// Whether `text` speaks of the process.
bool Names(const std::string& text, const Child& child) {
  return absl::StrContains(text, absl::StrCat("pid ", child.pid, ")"));
}

// Starts, watches and stops the coordinator and the workers.  One thread: a
// loop over pipes and signals.
class Supervisor {
 public:
  explicit Supervisor(const ServeFlags& flags) : flags_(flags) {}

  // Children must not outlive this object.
  ~Supervisor() {
    for (const Child& child : children_) {
      if (!child.status) kill(child.pid, SIGKILL);
    }
    for (Child& child : children_) {
      if (!child.status) waitpid(child.pid, nullptr, 0);
    }
    if (signals_.get() >= 0) {
      sigprocmask(SIG_SETMASK, &mask_before_, nullptr);
    }
  }

  absl::Status Run() {
    H2O_RETURN_IF_ERROR(Prepare());
    H2O_RETURN_IF_ERROR(StartCoordinator());
    while (!Finished()) {
      H2O_RETURN_IF_ERROR(Poll());
      Reap();
      if (loss_at_ && !stopping_ && NewsIsIn()) Stop(kFarewellSeconds);
      if (stopping_ && clock_.Now() > stop_deadline_) break;
    }
    return Verdict();
  }

 private:
  absl::Status Prepare() {
    H2O_ASSIGN_OR_RETURN(folder_, FindPrograms());
    sigset_t mask;
    sigemptyset(&mask);
    for (int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&mask, signal);
    sigprocmask(SIG_BLOCK, &mask, &mask_before_);
    signals_ = UniqueFd(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
    return absl::OkStatus();
  }

  absl::Status StartCoordinator() {
    UniqueFd events, events_of_child;
    H2O_RETURN_IF_ERROR(MakePipe(&events, &events_of_child));
    std::vector<std::string> arguments = AsGiven(flags_.for_coordinator);
    arguments.push_back(absl::StrCat("--events-fd=", events_of_child.get()));
    Child& child = children_.emplace_back();
    child.name = "the coordinator";
    const absl::Status status = Start(folder_ / "h2oserve-coordinator",
                                      arguments, events_of_child.get(), &child);
    if (!status.ok()) children_.pop_back();
    events_ = LineReader(std::move(events));
    return status;
  }

  absl::Status StartWorkers(const std::string& address) {
    for (int i = 0; i < flags_.workers; ++i) {
      Child& child = children_.emplace_back();
      child.name = absl::StrCat("worker ", i);
      const absl::Status status =
          Start(folder_ / "h2oserve-worker",
                WorkerArguments(flags_, address, i), -1, &child);
      if (!status.ok()) {
        children_.pop_back();
        return status;
      }
    }
    return absl::OkStatus();
  }

  // Waits at most a tenth of a second for output, events and signals, and
  // handles them.
  absl::Status Poll() {
    std::vector<pollfd> fds = {{signals_.get(), POLLIN, 0},
                               {events_.fd(), POLLIN, 0}};
    for (const Child& child : children_) {
      fds.push_back({child.log.fd(), POLLIN, 0});  // poll skips -1
    }
    if (poll(fds.data(), fds.size(), 100) < 0 && errno != EINTR) {
      return absl::InternalError(absl::StrCat("poll: ", strerror(errno)));
    }
    for (size_t i = 2; i < fds.size(); ++i) {
      if (fds[i].revents != 0) PassOn(&children_[i - 2]);
    }
    if (fds[1].revents != 0) {
      for (const std::string& line : events_.Read()) {
        H2O_RETURN_IF_ERROR(OnEvent(line));
      }
    }
    signalfd_siginfo signal;
    while (read(signals_.get(), &signal, sizeof(signal)) == sizeof(signal)) {
      if (signal.ssi_signo != SIGCHLD) OnSignal();
    }
    return absl::OkStatus();
  }

  // Passes log lines on.  The line that says why a program ends is kept and
  // logged once, at the end.
  static void PassOn(Child* child) {
    for (std::string& line : child->log.Read()) {
      if (std::optional<std::string> why = LastWordsIn(line, child->program)) {
        child->last_words = *std::move(why);
      } else {
        LogAsItIs(std::move(line));
      }
    }
  }

  // Handles a line from the coordinator's --events-fd.
  absl::Status OnEvent(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string what = line.substr(0, space);
    const std::string rest =
        space == std::string::npos ? "" : line.substr(space + 1);
    if (what == "listening") {
      address_ = rest;
      return StartWorkers(CallableAddress(address_));
    }
    if (what == "ready" && !serving_ &&
        rest == absl::StrCat(flags_.coordinator.groups)) {
      serving_ = true;
      std::printf("listening on %s\n", address_.c_str());
      std::fflush(stdout);
    }
    if (what == "over") {
      if (lost_group_.empty()) lost_group_ = rest;
      NoteLoss();
    }
    return absl::OkStatus();
  }

  void OnSignal() {
    if (stopping_) {
      told_twice_ = true;
      stop_deadline_ = 0;  // kill the rest now
      return;
    }
    told_ = true;
    // The coordinator's grace time, and a little more to stop.
    Stop(flags_.coordinator.grace_seconds + 2 * kFarewellSeconds);
  }

  void Reap() {
    for (Child& child : children_) {
      int status = 0;
      if (child.status || waitpid(child.pid, &status, WNOHANG) != child.pid) {
        continue;
      }
      child.status = status;
      while (child.log.fd() >= 0) PassOn(&child);
      if (!stopping_) {
        NoteLoss();
      } else if (&child == &children_[0]) {
        // The coordinator did not know workers that were still loading.
        SignalAll(SIGTERM);
        stop_deadline_ =
            std::min(stop_deadline_, clock_.Now() + kFarewellSeconds);
      }
    }
  }

  void NoteLoss() {
    if (!loss_at_) loss_at_ = clock_.Now();
  }

  // Whether both the lost group and the ended process are known, or nothing
  // more is expected.
  bool NewsIsIn() const {
    const bool a_process = std::any_of(
        children_.begin(), children_.end(),
        [](const Child& child) { return child.status.has_value(); });
    return (a_process && !lost_group_.empty()) ||
           clock_.Now() - *loss_at_ > kBlameSeconds ||
           children_[0].status.has_value();
  }

  void Stop(double seconds) {
    stopping_ = true;
    stop_deadline_ = clock_.Now() + seconds;
    if (!children_[0].status) {
      kill(children_[0].pid, SIGTERM);
    } else {
      SignalAll(SIGTERM);
    }
    // From here on children end because they are told to, so those that have
    // ended before did so by themselves.
    for (const Child& child : children_) {
      if (!child.status || told_) continue;
      if (culprit_.empty() || WIFSIGNALED(*child.status) ||
          Names(lost_group_, child)) {
        culprit_ = HowItEnded(child);
      }
      if (Names(lost_group_, child)) break;
    }
  }

  void SignalAll(int signal) const {
    for (const Child& child : children_) {
      if (!child.status) kill(child.pid, signal);
    }
  }

  bool Finished() const {
    return std::all_of(children_.begin(), children_.end(),
                       [](const Child& child) { return child.status; });
  }

  absl::Status Verdict() const {
    if (told_ && !loss_at_) {
      for (const Child& child : children_) {
        if (!child.status) {
          return absl::DeadlineExceededError(absl::StrCat(
              child.name, told_twice_ ? " was killed at the second signal"
                                      : " did not stop in time"));
        }
        if (EndedBadly(*child.status)) {
          return absl::UnavailableError(
              absl::StrCat(HowItEnded(child), " while it was to stop"));
        }
      }
      return absl::OkStatus();
    }
    std::vector<std::string> parts;
    if (!lost_group_.empty()) parts.push_back(lost_group_);
    if (!culprit_.empty()) parts.push_back(culprit_);
    return absl::UnavailableError(absl::StrJoin(parts, "; "));
  }

  const ServeFlags& flags_;
  const SteadyClock clock_;
  std::filesystem::path folder_;
  UniqueFd signals_;
  sigset_t mask_before_;
  std::vector<Child> children_;  // the coordinator first
  LineReader events_{UniqueFd()};
  std::string address_;
  bool serving_ = false;

  std::optional<double> loss_at_;  // when the first loss was noticed
  std::string lost_group_;         // the coordinator's report of it
  std::string culprit_;            // the process that ended, and how

  bool stopping_ = false;
  bool told_ = false;  // by a signal
  bool told_twice_ = false;
  double stop_deadline_ = 0;
};

absl::Status Run(ServeFlags flags) {
  const int needed = flags.coordinator.tp * flags.coordinator.groups;
  if (flags.workers == 0) flags.workers = needed;
  if (flags.workers < needed) {
    return absl::InvalidArgumentError(
        absl::StrCat("--workers ", flags.workers, " are too few; --tp ",
                     flags.coordinator.tp, " times --groups ",
                     flags.coordinator.groups, " need ", needed));
  }
  return Supervisor(flags).Run();
}

}  // namespace

void AddServeCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app->add_subcommand(
      "serve", "Starts a coordinator and its workers on this host");
  const auto options = [command] {
    const CLI::App* app = command;
    return app->get_options();
  };
  const size_t before = options().size();  // --help
  AddCoordinatorFlags(command, &flags->coordinator);
  const size_t between = options().size();
  AddShardFlags(command, &flags->shard);
  AddTransportFlag(command, &flags->tcp_only);
  AddLogFlag(command);
  const std::vector<const CLI::Option*> all = options();
  flags->for_coordinator.assign(all.begin() + before, all.begin() + between);
  for (const CLI::Option* option :
       std::vector(all.begin() + between, all.end())) {
    const std::string& name = option->get_lnames()[0];
    if (name != "device" && name != "memory-share") {
      flags->for_workers.push_back(option);
    }
  }
  flags->for_coordinator.push_back(command->get_option("--log-format"));
  command
      ->add_option("--workers", flags->workers,
                   "Worker processes; 0: --tp times --groups")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N")
      ->capture_default_str();
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
