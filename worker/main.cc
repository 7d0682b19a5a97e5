// h2oserve-worker: one rank.  It dials the coordinator and does as it is told.
#include <arpa/inet.h>
#include <netdb.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "access/tls_files.h"
#include "base/clock.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/stop_signals.h"
#include "flags/access_flags.h"
#include "flags/exit_code.h"
#include "flags/flags.h"
#include "flags/process.h"
#include "flags/version.h"
#include "kernels/find_device.h"
#include "model/model_spec.h"
#include "parallel/host_communicator.h"
#include "parallel/rank_communicator.h"
#include "proto/grpc_log.h"
#include "proto/live_certificates.h"
#include "worker/shard_runner.h"
#include "worker/worker_health.h"
#include "worker/worker_service.h"

namespace h2o {
namespace {

constexpr double kRedialSeconds = 0.2;

// gRPC's, and a few of our own.
constexpr int kLeastThreads = 8;

struct WorkerFlags {
  std::string coordinator;
  std::string model;  // empty: the announced one
  std::string advertise;
  double connect_timeout_seconds = 60;
  ClientTlsFlags tls;
  double reconnect_seconds = 0;
  std::string health;  // empty: none
  ShardFlags shard;
  bool tcp_only = false;
  // From `serve`: its workers share out the memory of this host together.
  std::string memory_group;  // empty: the ranks of one group do
  int memory_ranks = 0;
};

void AddWorkerFlags(CLI::App* app, WorkerFlags* flags) {
  app->add_option("--coordinator", flags->coordinator,
                  "Address of the coordinator")
      ->required()
      ->type_name("HOST:PORT");
  app->add_option("--model", flags->model,
                  "This worker's copy of the model, if its path is not the one "
                  "that the coordinator announces")
      ->type_name("DIR");
  app->add_option("--advertise", flags->advertise,
                  "Host name or address at which other workers reach this one. "
                  "Default: the address from which it reaches the coordinator")
      ->type_name("HOST");
  app->add_option("--connect-timeout", flags->connect_timeout_seconds,
                  "How long to wait for the coordinator to answer")
      ->check(Within(0, 1e9, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  AddClientTlsFlags(app, &flags->tls);
  app->add_option("--reconnect", flags->reconnect_seconds,
                  "After losing the coordinator, dial it again for this long; "
                  "0: end. A worker that comes back loads again")
      ->check(Within(0, 1e9, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--health", flags->health,
                  "Address of HTTP for this worker's own /livez and /readyz; "
                  "port 0 picks a free port. Default: none")
      ->type_name("HOST:PORT");
  AddShardFlags(app, &flags->shard);
  AddTransportFlag(app, &flags->tcp_only);
  app->add_option("--memory-group", flags->memory_group)->group("");
  app->add_option("--memory-ranks", flags->memory_ranks)
      ->check(AtLeastOne())
      ->group("");
}

// Our address on the way to `host`, in brackets if it is IPv6; 127.0.0.1 if
// the way cannot be told.  Sends nothing.
std::string LocalAddressTowards(const std::string& host) {
  addrinfo* found = nullptr;
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  std::string address = "127.0.0.1";
  if (getaddrinfo(host.c_str(), "9", &hints, &found) != 0) return address;
  for (addrinfo* to = found; to != nullptr; to = to->ai_next) {
    const int fd = socket(to->ai_family, SOCK_DGRAM, 0);
    sockaddr_storage local{};
    socklen_t size = sizeof(local);
    char text[NI_MAXHOST];
    const bool known =
        fd >= 0 && connect(fd, to->ai_addr, to->ai_addrlen) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) == 0 &&
        getnameinfo(reinterpret_cast<sockaddr*>(&local), size, text,
                    sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0;
    if (fd >= 0) close(fd);
    if (!known) continue;
    address = to->ai_family == AF_INET6 ? absl::StrCat("[", text, "]") : text;
    break;
  }
  freeaddrinfo(found);
  return address;
}

// At every address of this host, of both kinds where it has both.
absl::StatusOr<MeshListener> BindAnywhere() {
  absl::StatusOr<MeshListener> both = MeshListener::Bind("[::]:0");
  return both.ok() ? std::move(both) : MeshListener::Bind("0.0.0.0:0");
}

// Binds where the other ranks will call; returns what they are told.
absl::StatusOr<std::string> BindMesh(const WorkerFlags& flags,
                                     const std::string& coordinator_host,
                                     std::optional<MeshListener>* listener) {
  // An advertised name may be a gateway's, which cannot be bound.
  const bool given = !flags.advertise.empty();
  const std::string host =
      given ? flags.advertise : LocalAddressTowards(coordinator_host);
  H2O_ASSIGN_OR_RETURN(
      *listener,
      given ? BindAnywhere() : MeshListener::Bind(absl::StrCat(host, ":0")));
  return absl::StrCat(host, ":", (*listener)->port());
}

absl::StatusOr<std::shared_ptr<PlanRunner>> Load(
    const WorkerFlags& flags, DeviceName device, MeshListener listener,
    const Clock* clock, const Assignment& assignment,
    std::function<void(double)> progress) {
  ShardOptions options;
  options.model = assignment.model;
  if (!flags.model.empty()) options.model.model = flags.model;
  H2O_ASSIGN_OR_RETURN(options.config, ConfigOf(options.model));
  options.device = device;
  options.rank = assignment.rank;
  options.size = assignment.size;
  options.num_threads =
      flags.shard.threads > 0 ? flags.shard.threads : AvailableCores();
  options.kv_pool_bytes = flags.shard.kv_pool_bytes;
  options.memory_share = flags.shard.memory_share;
  if (!device.cuda) {
    options.local_ranks = static_cast<int>(
        std::count(assignment.host_ids.begin(), assignment.host_ids.end(),
                   assignment.host_ids[assignment.rank]));
    options.memory_group = absl::StrCat(absl::Hex(assignment.nonce));
    if (!flags.memory_group.empty()) {
      options.memory_group = flags.memory_group;
      options.local_ranks = flags.memory_ranks;
    }
  }
  options.max_sequences = assignment.max_sequences;
  options.cache_directory = flags.shard.cache_directory;

  H2O_ASSIGN_OR_RETURN(
      std::unique_ptr<Communicator> communicator,
      ConnectRank(
          std::move(listener),
          {.rank = assignment.rank,
           .size = assignment.size,
           .addresses = assignment.mesh_addresses,
           .host_ids = assignment.host_ids,
           .nonce = assignment.nonce,
           .secret = assignment.mesh_secret,
           .connect_timeout_seconds = assignment.connect_timeout_seconds,
           .operation_timeout_seconds = assignment.operation_timeout_seconds,
           .tcp_only = flags.tcp_only},
          device));
  return ShardRunner::Create(options, std::move(communicator), clock,
                             std::move(progress));
}

// At the first signal, a serving worker asks the coordinator to let it go; a
// worker that does not serve exits.  A signal more than a second later ends it
// at once.
void HandleSignals(const sigset_t* signals, WorkerControl* control) {
  const SteadyClock clock;
  StopSignals stop_signals;
  StopSignals::Meaning meaning = StopSignals::Meaning::kStop;
  while (meaning != StopSignals::Meaning::kAtOnce) {
    int signal = 0;
    sigwait(signals, &signal);
    if (control->stage != WorkerStage::kServing) std::_Exit(kDone);
    control->leave = true;
    meaning = stop_signals.Take(clock.Now());
  }
  LogWhyItEnds("stopped at once");
  std::_Exit(kFault);
}

ExitCode ExitCodeOf(const WorkerVerdict& verdict) {
  switch (verdict.end) {
    case WorkerEnd::kLeft:
    case WorkerEnd::kDrained:
      return kDone;
    case WorkerEnd::kLetGo:
      return kLetGo;
    case WorkerEnd::kFault:
      return ExitCodeFor(verdict.status);
    case WorkerEnd::kCoordinatorLost:
      return kCoordinatorLost;
    case WorkerEnd::kRefused:
      return kRefused;
  }
  return kFault;
}

// The certificates that this worker connects with.
struct WorkerTls {
  std::unique_ptr<LiveCertificates> live;  // null: no TLS
  std::unique_ptr<TlsFiles> files;         // before what it keeps up to date
};

absl::StatusOr<WorkerTls> LoadTls(const ClientTlsFlags& flags) {
  WorkerTls tls;
  if (flags.ca.empty()) return tls;
  absl::StatusOr<std::unique_ptr<TlsFiles>> files =
      TlsFiles::Load({.certificate = flags.certificate,
                      .key = flags.key,
                      .peer_ca = flags.ca});
  if (!files.ok()) {
    return absl::Status(files.status().code(),
                        absl::StrCat("--tls-ca: ", files.status().message()));
  }
  tls.files = *std::move(files);
  tls.live =
      std::make_unique<LiveCertificates>(tls.files->state()->material());
  tls.files->Watch([live = tls.live.get()](const TlsState& state) {
    live->Replace(state.material());
  });
  return tls;
}

// The host of `coordinator`, HOST:PORT or, under `serve`, unix:PATH.
absl::StatusOr<std::string> HostOfCoordinator(const std::string& coordinator) {
  if (coordinator.starts_with("unix:")) return std::string("127.0.0.1");
  const absl::StatusOr<HostPort> where = ParseHostPort(coordinator);
  if (where.ok()) return where->host;
  return absl::InvalidArgumentError(
      absl::StrCat("--coordinator: ", where.status().message()));
}

// Serves, and dials again for some time when the coordinator is lost.
WorkerVerdict ServeAndReconnect(const WorkerFlags& flags,
                                WorkerServiceOptions options,
                                const LoadShard& load, WorkerControl* control) {
  const SteadyClock clock;
  double until = 0;  // may dial again; 0: it never had a coordinator
  while (true) {
    const WorkerVerdict verdict = ServeWorker(options, load, control);
    if (verdict.joined) until = clock.Now() + flags.reconnect_seconds;
    const double left = until - clock.Now();
    if (verdict.end != WorkerEnd::kCoordinatorLost || left <= 0) return verdict;
    H2O_LOG(LogLevel::kWarning)
        << verdict.status.message() << "; dials again for " << left << " s";
    // A port whose owner closes every connection is asked a few times a second.
    std::this_thread::sleep_for(
        std::chrono::duration<double>(std::min(left, kRedialSeconds)));
    options.connect_timeout_seconds = left;
  }
}

absl::StatusOr<WorkerVerdict> Run(const WorkerFlags& flags,
                                  WorkerControl* control) {
  H2O_RETURN_IF_ERROR(CheckThreads(kLeastThreads));
  H2O_ASSIGN_OR_RETURN(const DeviceName device, FindDevice(flags.shard.device));
  WorkerServiceOptions options;
  options.coordinator = flags.coordinator;
  options.connect_timeout_seconds = flags.connect_timeout_seconds;
  options.version = Version();
  options.build = BuildId();
  options.device = flags.shard.device;
  options.host_id = ThisHostId();
  options.model_path = flags.model;
  H2O_ASSIGN_OR_RETURN(const std::string coordinator_host,
                       HostOfCoordinator(flags.coordinator));
  H2O_ASSIGN_OR_RETURN(const WorkerTls tls, LoadTls(flags.tls));
  options.certificates = tls.live.get();
  std::optional<MeshListener> listener;
  options.mesh_address = [&] {
    return BindMesh(flags, coordinator_host, &listener);
  };
  // A model of our own is compared before anything is loaded.  Whether the
  // announced weights are dummy only the coordinator knows, so a built-in name
  // is looked at then.
  if (!flags.model.empty()) {
    absl::StatusOr<ModelConfig> config = ConfigOf({.model = flags.model});
    if (!config.ok()) config = BuiltInModelConfig(flags.model);
    if (!config.ok()) return ConfigOf({.model = flags.model}).status();
    options.config = *std::move(config);
  }
  options.on_stuck = [](const WorkerVerdict& verdict) {
    LogWhyItEnds(verdict.status.ToString());
    std::_Exit(ExitCodeOf(verdict));
  };
  std::unique_ptr<HttpServer> health;
  if (!flags.health.empty()) {
    H2O_ASSIGN_OR_RETURN(health, ServeWorkerHealth(flags.health, control));
    std::printf("health on %s\n", health->address().ToString().c_str());
    std::fflush(stdout);
  }
  const SteadyClock clock;
  return ServeAndReconnect(
      flags, options,
      [&](const Assignment& assignment, std::function<void(double)> progress) {
        return Load(flags, device, *std::move(listener), &clock, assignment,
                    std::move(progress));
      },
      control);
}

int Main(int argc, char** argv) {
  // Before any thread is made: signals are for one thread alone.
  static sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  PrepareProcess();
  LogForGrpc();

  CLI::App app(
      "One rank of a model: connects to a coordinator and runs its steps",
      "h2oserve-worker");
  WorkerFlags flags;
  AddWorkerFlags(&app, &flags);
  AddLogFlag(&app);
  if (std::optional<int> code = ParseCommandLine(&app, argc, argv))
    return *code;

  static WorkerControl control;
  std::thread(HandleSignals, &signals, &control).detach();
  const absl::StatusOr<WorkerVerdict> run = Run(flags, &control);
  const WorkerVerdict verdict =
      run.ok() ? *run : WorkerVerdict{WorkerEnd::kFault, false, run.status()};
  if (verdict.end == WorkerEnd::kDrained) {
    H2O_LOG() << verdict.status.message();
  } else if (!verdict.status.ok()) {
    LogWhyItEnds(verdict.status.ToString());
  }
  return ExitCodeOf(verdict);
}

}  // namespace
}  // namespace h2o

int main(int argc, char** argv) { return h2o::Main(argc, argv); }
