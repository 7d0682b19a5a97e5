// `h2oserve serve`: a coordinator and its workers as processes of this host,
// started, watched and stopped together.
//
// The programs lie beside this one.  They end when it ends, in whatever way.
// Workers that are lost are started again, ever later if it happens again and
// again (restarts.h); the groups that are left go on meanwhile.  Workers that
// have drained start again at once.  If the
// coordinator is lost, or workers before they were ready, all are stopped and
// the error names what was lost.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
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

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/entropy.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/running_clock.h"
#include "base/status_macros.h"
#include "base/stop_signals.h"
#include "clients/child_process.h"
#include "clients/commands.h"
#include "clients/losses.h"
#include "clients/restarts.h"
#include "flags/flags.h"
#include "parallel/unique_fd.h"

namespace h2o {
namespace {

// Where HTTP is unless the flags say.  If it is taken, there is no HTTP.
constexpr char kDefaultHttp[] = "127.0.0.1:8000";

// After a loss the other programs may take this long to stop.
constexpr double kFarewellSeconds = 3;

// Workers end when their coordinator does; those that do not are told to after
// this time.
constexpr double kNudgeSeconds = 0.5;

// A rank whose group is over, and that has not ended after this time, hangs.
constexpr double kStuckSeconds = 5;

struct ServeFlags {
  CoordinatorFlags coordinator;
  ShardFlags shard;
  bool tcp_only = false;
  int workers = 0;                         // 0: tp * groups
  uint64_t memory_group = RandomBits64();  // of all workers

  // Where its workers join, in a folder that only this user can enter, when
  // the port that others reach takes certificates or keys.
  std::string worker_socket;  // empty: at the port

  const CLI::Option* http = nullptr;
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

// Passes log lines on.  The line that says why a program ends is kept and
// logged once, at the end.
void PassOn(Child* child) {
  for (std::string& line : child->log.Read()) {
    if (std::optional<std::string> why = LastWordsIn(line, child->program)) {
      child->last_words = *std::move(why);
    } else {
      LogAsItIs(std::move(line));
    }
  }
}

void SignalAll(const std::vector<Child>& children, int signal) {
  for (const Child& child : children) {
    if (!child.status) kill(child.pid, signal);
  }
}

// A folder that only this user can enter, gone with this object.
class PrivateFolder {
 public:
  PrivateFolder() = default;
  ~PrivateFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;

  absl::Status Create() {
    std::error_code error;
    std::string name =
        std::filesystem::temp_directory_path(error) / "h2oserve-XXXXXX";
    if (error || mkdtemp(name.data()) == nullptr) {
      return absl::PermissionDeniedError(
          absl::StrCat("cannot make a folder ", name, ": ", strerror(errno)));
    }
    path_ = name;
    return absl::OkStatus();
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Starts, watches and stops the coordinator and the workers.  One thread: a
// loop over pipes and signals.
class Supervisor {
 public:
  explicit Supervisor(const ServeFlags& flags) : flags_(flags) {}

  // Children must not outlive this object.
  ~Supervisor() {
    SignalAll(children_, SIGKILL);
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
      if (loss_ && !stopping_ && IsUnderstood(children_, *loss_, Now())) {
        OnLoss();
      }
      EndStragglers();
      H2O_RETURN_IF_ERROR(RestartDrained());
      H2O_RETURN_IF_ERROR(Restart());
      if (stopping_ && Now() > stop_deadline_) break;
    }
    return Verdict();
  }

 private:
  double Now() const { return clock_.Now(); }

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
    if (!flags_.worker_socket.empty()) {
      arguments.push_back(
          absl::StrCat("--worker-socket=", flags_.worker_socket));
    }
    arguments.push_back(absl::StrCat("--events-fd=", events_of_child.get()));
    if (flags_.http->count() == 0) {
      arguments.push_back(absl::StrCat("--http-if-free=", kDefaultHttp));
    }
    Child& child = children_.emplace_back();
    child.name = "the coordinator";
    const absl::Status status = Start(folder_ / "h2oserve-coordinator",
                                      arguments, events_of_child.get(), &child);
    if (!status.ok()) children_.pop_back();
    events_ = LineReader(std::move(events));
    return status;
  }

  // Where its workers find the coordinator.
  std::string AddressForWorkers() const {
    return flags_.worker_socket.empty()
               ? CallableAddress(address_)
               : absl::StrCat("unix:", flags_.worker_socket);
  }

  absl::Status StartWorkers(const std::string& address) {
    for (int i = 0; i < flags_.workers; ++i) {
      H2O_ASSIGN_OR_RETURN(Child worker, StartWorker(address, i));
      children_.push_back(std::move(worker));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Child> StartWorker(const std::string& address,
                                    int worker) const {
    Child child;
    child.name = absl::StrCat("worker ", worker);
    H2O_RETURN_IF_ERROR(Start(folder_ / "h2oserve-worker",
                              WorkerArguments(flags_, address, worker), -1,
                              &child));
    return child;
  }

  absl::Status RestartDrained() {
    for (size_t i = 1; i < children_.size() && !stopping_; ++i) {
      if (!children_[i].left_at || !children_[i].status) continue;
      H2O_LOG() << children_[i].name << " has drained and starts again";
      H2O_ASSIGN_OR_RETURN(children_[i], StartWorker(CallableAddress(address_),
                                                     static_cast<int>(i) - 1));
    }
    return absl::OkStatus();
  }

  // Starts lost workers again, when it is time and they have ended.
  absl::Status Restart() {
    if (!restart_at_ || stopping_ || Now() < *restart_at_) {
      return absl::OkStatus();
    }
    for (size_t i = 1; i < children_.size(); ++i) {
      if (!children_[i].status) continue;
      H2O_ASSIGN_OR_RETURN(children_[i], StartWorker(AddressForWorkers(),
                                                     static_cast<int>(i) - 1));
    }
    const bool all = std::none_of(children_.begin(), children_.end(),
                                  [](const Child& c) { return c.lost_at; });
    if (all) restart_at_.reset();
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

  // Handles a line from the coordinator's --events-fd.
  absl::Status OnEvent(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string what = line.substr(0, space);
    const std::string rest =
        space == std::string::npos ? "" : line.substr(space + 1);
    if (what == "listening" && !stopping_) {
      address_ = rest;
      return StartWorkers(AddressForWorkers());
    }
    const bool all_ready =
        what == "ready" && rest == absl::StrCat(flags_.coordinator.groups);
    if (all_ready) restarts_.Ready(Now());
    if (all_ready && !serving_) {
      serving_ = true;
      std::printf("listening on %s\n", address_.c_str());
      if (!http_.empty()) std::printf("http on %s\n", http_.c_str());
      std::fflush(stdout);
    }
    if (what == "http") http_ = rest;
    if (what == "stopping") coordinator_stops_ = true;
    if (what == "over") OnGroupOver(rest);
    if (what == "left") OnGroupLeft(rest);
    return absl::OkStatus();
  }

  // `line`: the ranks' process ids, with commas, and the reason.
  void OnGroupOver(const std::string& line) {
    if (told_) return;  // the ranks may leave
    const auto [pids, reason] = std::pair<std::string, std::string>(
        absl::StrSplit(line, absl::MaxSplits(' ', 1)));
    for (Child* child : ChildrenOf(pids)) child->lost_at = Now();
    NoteLoss();
    if (loss_->group.empty()) loss_->group = reason;
  }

  // Likewise; the ranks are about to be let go.
  void OnGroupLeft(const std::string& line) {
    for (Child* child : ChildrenOf(line.substr(0, line.find(' ')))) {
      child->left_at = Now();
    }
  }

  std::vector<Child*> ChildrenOf(const std::string& pids) {
    std::vector<Child*> found;
    for (const absl::string_view pid : absl::StrSplit(pids, ',')) {
      for (Child& child : children_) {
        if (pid == absl::StrCat(child.pid)) found.push_back(&child);
      }
    }
    return found;
  }

  void OnSignal() {
    switch (stop_signals_.Take(Now())) {
      case StopSignals::Meaning::kSame:
        return;
      case StopSignals::Meaning::kAtOnce:
        told_twice_ = true;
        stop_deadline_ = 0;  // kill the rest now
        return;
      case StopSignals::Meaning::kStop:
        told_ = true;
        if (stopping_) return;
        // The others were told to stop as well, and may have been quicker.
        if (loss_ && AllEndedInOrder(children_)) loss_.reset();
        // The coordinator's grace time, and a little more to stop.
        Stop(flags_.coordinator.grace_seconds + 2 * kFarewellSeconds);
    }
  }

  void Reap() {
    for (Child& child : children_) {
      int status = 0;
      if (child.status || waitpid(child.pid, &status, WNOHANG) != child.pid) {
        continue;
      }
      child.status = status;
      while (child.log.fd() >= 0) PassOn(&child);
      if (child.left_at || (child.lost_at && !loss_)) {
        child.reported = true;  // with its group
      } else if (!stopping_) {
        NoteLoss();
      } else if (&child == &children_[0]) {
        nudge_at_ = Now() + kNudgeSeconds;
      }
    }
  }

  void NoteLoss() {
    if (!loss_) loss_ = Loss{.noticed = Now()};
  }

  // Workers start again, unless they never were ready or are lost again and
  // again; then all stops, as it does without the coordinator.
  void OnLoss() {
    std::optional<double> wait;
    if (serving_ && !children_[0].status) wait = restarts_.Lost(Now());
    if (!wait) return Stop(kFarewellSeconds);
    H2O_LOG(LogLevel::kError)
        << Describe(children_, *loss_) << "; lost workers start again in "
        << *wait << " s, " << UsableWorkers(children_) << " go on";
    for (Child& child : children_) child.reported |= child.status.has_value();
    restart_at_ = Now() + *wait;
    loss_.reset();
  }

  void Stop(double seconds) {
    stopping_ = true;
    stop_deadline_ = Now() + seconds;
    // From here on children end because they are told to, so those that have
    // ended before did so by themselves.
    if (loss_) verdict_ = StatusOf(children_, *loss_);
    if (children_[0].status) return SignalAll(children_, SIGTERM);
    if (!coordinator_stops_) kill(children_[0].pid, SIGTERM);
  }

  // Ends workers that have no reason to be there any more.
  void EndStragglers() {
    // The coordinator did not know workers that were still loading.
    if (nudge_at_ && Now() > *nudge_at_) {
      nudge_at_.reset();
      SignalAll(children_, SIGTERM);
      stop_deadline_ = std::min(stop_deadline_, Now() + kFarewellSeconds);
    }
    // Ranks whose group is over end by themselves, unless they are stuck.
    for (const Child& child : children_) {
      const std::optional<double> over =
          child.lost_at ? child.lost_at : child.left_at;
      if (over && !child.status && Now() > *over + kStuckSeconds) {
        kill(child.pid, SIGKILL);
      }
    }
  }

  // A loss is looked at to its end, also if nothing is left.
  bool Finished() const {
    return (stopping_ || (!loss_ && !restart_at_)) &&
           std::all_of(children_.begin(), children_.end(),
                       [](const Child& child) { return child.status; });
  }

  absl::Status Verdict() const {
    if (!verdict_.ok()) return verdict_;
    return EndOfStop(children_, told_twice_);
  }

  const ServeFlags& flags_;
  const SteadyClock steady_;
  const RunningClock clock_{&steady_};
  std::filesystem::path folder_;
  UniqueFd signals_;
  sigset_t mask_before_;
  std::vector<Child> children_;  // the coordinator first
  LineReader events_{UniqueFd()};
  std::string address_;
  std::string http_;  // empty: no HTTP
  bool serving_ = false;

  std::optional<Loss> loss_;  // that is not understood yet
  absl::Status verdict_;      // the loss that ended it all, or OK
  Restarts restarts_;
  std::optional<double> restart_at_;  // of lost workers

  StopSignals stop_signals_;
  bool told_ = false;  // by a signal
  bool told_twice_ = false;
  bool coordinator_stops_ = false;
  bool stopping_ = false;
  double stop_deadline_ = 0;
  std::optional<double> nudge_at_;  // workers that outlive the coordinator
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
  const AccessFlags& access = flags.coordinator.access;
  PrivateFolder folder;
  if (!access.certificate.empty() || !access.api_keys.empty()) {
    H2O_RETURN_IF_ERROR(folder.Create());
    flags.worker_socket = folder.path() / "workers";
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
  flags->coordinator.http = kDefaultHttp;
  AddCoordinatorFlags(command, &flags->coordinator);
  flags->http = command->get_option("--http");
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
      ->check(Within(0, 1e6, "a whole number, 0 to 1000000"))
      ->type_name("N")
      ->capture_default_str();
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
