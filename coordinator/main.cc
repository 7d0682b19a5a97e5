// h2oserve-coordinator: the engine behind two gRPC doors on one port, the
// public one for clients and the one where workers dial in.
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/open_files.h"
#include "base/running_clock.h"
#include "base/status_macros.h"
#include "base/stop_signals.h"
#include "chat/chat_template.h"
#include "coordinator/admin_service.h"
#include "coordinator/connections.h"
#include "coordinator/doorkeeper.h"
#include "coordinator/engine.h"
#include "coordinator/fault_reports.h"
#include "coordinator/grpc_visitor.h"
#include "coordinator/guard.h"
#include "coordinator/http_service.h"
#include "coordinator/inference_service.h"
#include "coordinator/openai_service.h"
#include "coordinator/remote_workers.h"
#include "coordinator/status_page.h"
#include "flags/exit_code.h"
#include "flags/flags.h"
#include "flags/process.h"
#include "flags/version.h"
#include "model/model_spec.h"
#include "model/tokenizer.h"
#include "proto/channel.h"
#include "proto/grpc_log.h"

namespace h2o {
namespace {

constexpr int kTickMs = 50;

// Time for the last messages to reach their clients, after the last request has
// ended.
constexpr auto kFarewell = std::chrono::seconds(2);

// What happens, as lines for the supervisor that started this process:
// "listening HOST:PORT", "ready N" (groups now ready), "over PID,PID REASON" (a
// group is lost, with these ranks), "left PID,PID REASON" (likewise, drained)
// and "stopping".
class Events {
 public:
  explicit Events(int fd) : fd_(fd) {}
  void Write(const char* what, const LostGroup& group) const {
    Write(absl::StrCat(what, " ", absl::StrJoin(group.pids, ","), " group ",
                       group.group, ": ", group.reason.message()));
  }
  void Write(const std::string& line) const {
    if (fd_ < 0) return;
    const std::string text = line + "\n";
    // A write fails only if the supervisor is gone; then no report is needed.
    [[maybe_unused]] const ssize_t n = write(fd_, text.data(), text.size());
  }

 private:
  const int fd_;  // -1: nobody listens
};

// The tokenizer of the model, or null where its directory has none.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const ModelSpec& model, const ModelConfig& config) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      Tokenizer::Load(model.model, config.vocab_size);
  if (absl::IsNotFound(tokenizer.status())) {
    H2O_LOG() << tokenizer.status().message()
              << "; only prompts of token ids are served";
    return nullptr;
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(
    const CoordinatorFlags& flags) {
  H2O_ASSIGN_OR_RETURN(
      ChatTemplate loaded,
      ChatTemplate::Load(flags.model.spec.model, flags.chat_template));
  if (!loaded.fault().ok())
    H2O_LOG() << "no chats: " << loaded.fault().message();
  return std::make_unique<ChatTemplate>(std::move(loaded));
}

// Waits for up to kTickMs; the signal that came, or 0.
int WaitForSignal(const sigset_t& signals) {
  const timespec tick = {.tv_sec = 0, .tv_nsec = kTickMs * 1'000'000L};
  const int signal = sigtimedwait(&signals, nullptr, &tick);
  return signal > 0 ? signal : 0;
}

// The coordinator at work.  Members are destroyed from the last to the first:
// the server before what its services use.
struct Coordinator {
  ~Coordinator() { StopAccepting(); }

  std::unique_ptr<Tokenizer> tokenizer;  // may be null
  std::unique_ptr<ChatTemplate> chat_template;
  SteadyClock steady;
  RunningClock clock{&steady};  // the loop of Serve looks at it
  Guard guard;
  double step_deadline_seconds = 0;
  std::string model_id;
  ModelConfig config;
  KvPolicyRequest default_kv_policy;
  std::unique_ptr<FaultReports> faults;
  std::unique_ptr<Connections> connections;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Doorkeeper> keeper;
  std::unique_ptr<RemoteWorkers> workers;
  std::unique_ptr<InferenceService> inference;
  std::unique_ptr<AdminService> admin;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<ConnectionAcceptor> acceptor;  // of the server
  std::string address;                           // where it listens
  int64_t handshakes_failed = 0;                 // that are counted
  std::unique_ptr<OpenAiService> openai;
  std::unique_ptr<HttpService> http_service;
  std::unique_ptr<HttpServer> http;  // null: off

  // The signals of gRPC's health service.
  void ShowHealth(bool draining) {
    grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
    const bool is_ready = !draining && engine->Ready().ok();
    for (const char* name : {"ready", "", "h2oserve.v1.Inference"}) {
      health->SetServingStatus(name, is_ready);
    }
    health->SetServingStatus("progress",
                             engine->Progress(step_deadline_seconds).ok());
  }
  std::string Status() const {
    return StatusPage({.model = model_id,
                       .version = Version(),
                       .commit = Commit(),
                       .counters = engine->counters(),
                       .groups = engine->groups(),
                       .tenants = engine->tenants(),
                       .last_fault = faults->log().last(),
                       .queue_age_seconds = engine->queue_age_seconds()});
  }
  void Tick() {
    clock.Now();  // a clock that nobody looks at stands still
    engine->Tick();
    // gRPC tells of handshakes that fail in its log alone.
    for (; handshakes_failed < FailedHandshakes(); ++handshakes_failed) {
      engine->CountRefusal(Refusal::kConnection);
    }
    workers->Tick();
    inference->Tick();
  }
  void StopAccepting() {
    if (guard.tls != nullptr) guard.tls->StopWatching();
    if (connections != nullptr) connections->Stop();
  }
};

absl::StatusOr<EngineOptions> EngineOptionsOf(const CoordinatorFlags& flags) {
  EngineOptions options = flags.engine.options;
  H2O_ASSIGN_OR_RETURN(const std::optional<KvPolicyRequest> policy,
                       flags.policy.Request());
  if (policy) options.default_kv_policy = *policy;
  // Far from the deadline, because the time of a layer is an estimate.
  options.longest_step_seconds = flags.step_deadline_ms / 1000.0 / 4;
  return options;
}

// The largest message that the server receives: a client's request, or what a
// worker says.  Results grow with the sequences of a step, RankInfo with the
// heads.
int MaxMessageBytes(const CoordinatorFlags& flags) {
  const int64_t of_worker =
      (1 << 20) + int64_t{256} * flags.engine.options.max_sequences;
  return static_cast<int>(std::min<int64_t>(
      std::max(flags.max_request_bytes, of_worker), kMaxMessageBytes));
}

// Connections need descriptors, and others need some, too.
int MaxConnections(const CoordinatorFlags& flags) {
  constexpr int kSpare = 16, kLeast = 4;
  const int limit = RaiseOpenFileLimit();
  const int most = std::max(limit - CountOpenFiles() - kSpare, kLeast);
  if (most >= flags.max_connections) return flags.max_connections;
  H2O_LOG(LogLevel::kWarning)
      << "takes at most " << most << " connections instead of "
      << flags.max_connections << ": this process may have " << limit
      << " files open (ulimit -n)";
  return most;
}

std::string ModelIdOf(const CoordinatorFlags& flags) {
  if (!flags.served_model_name.empty()) return flags.served_model_name;
  const std::string& model = flags.model.spec.model;
  const std::filesystem::path path(model);
  const std::string last = path.filename().empty()
                               ? path.parent_path().filename().string()
                               : path.filename().string();
  return last.empty() ? model : last;
}

// More streams than the queue and the groups take would be refused.  The queue
// takes up to twice its length (coordinator/queue_limits.h).
int MaxStreams(const CoordinatorFlags& flags) {
  const EngineOptions& engine = flags.engine.options;
  const int64_t streams = 2 * int64_t{engine.max_queue} +
                          int64_t{flags.groups} * engine.max_sequences + 16;
  return static_cast<int>(std::min<int64_t>(streams, 1 << 20));
}

// Makes and starts the server, and lets connections come in.
absl::Status StartServer(const CoordinatorFlags& flags, Coordinator* c) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  c->acceptor = ServeAsCoordinator({.max_message_bytes = MaxMessageBytes(flags),
                                    .max_streams = MaxStreams(flags)},
                                   c->guard.certificates.get(), &builder);
  if (!flags.worker_socket.empty()) {
    ServeLocalWorkers(flags.worker_socket, &builder);
  }
  c->inference->AddTo(&builder);
  c->admin->AddTo(&builder);
  builder.RegisterService(c->workers->service());
  c->server = builder.BuildAndStart();
  if (c->server == nullptr) {
    return absl::UnavailableError("gRPC cannot serve; the log says why");
  }
  c->ShowHealth(/*draining=*/false);
  using Kind = Greetings::Kind;
  c->connections->Start(
      {.max_connections = MaxConnections(flags),
       .greetings = {.kind =
                         c->guard.tls != nullptr ? Kind::kTls : Kind::kHttp2,
                     .handshakes_per_second =
                         static_cast<double>(flags.max_handshakes)},
       .on_refused =
           [engine = c->engine.get()] {
             engine->CountRefusal(Refusal::kConnection);
           }},
      [acceptor = c->acceptor.get()](int fd) { GiveConnection(fd, acceptor); },
      [inference = c->inference.get()](const std::string& peer) {
        inference->GiveUpReads(peer);
      });
  return absl::OkStatus();
}

// Loads what the coordinator needs, and listens.  `events` must outlive it.
absl::StatusOr<std::unique_ptr<Coordinator>> Make(const CoordinatorFlags& flags,
                                                  const Events* events) {
  absl::StatusOr<HostPort> where = ParseHostPort(flags.listen);
  if (!where.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen: ", where.status().message()));
  }
  const ModelSpec& model = flags.model.spec;
  H2O_ASSIGN_OR_RETURN(const ModelConfig config, ConfigOf(model));
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(config, flags.tp));
  H2O_ASSIGN_OR_RETURN(const EngineOptions options, EngineOptionsOf(flags));
  auto c = std::make_unique<Coordinator>();
  H2O_ASSIGN_OR_RETURN(c->guard, Guard::Load(flags.access));
  Coordinator* const all = c.get();
  c->step_deadline_seconds = flags.step_deadline_ms / 1000.0;
  c->model_id = ModelIdOf(flags);
  c->config = config;
  c->default_kv_policy = options.default_kv_policy;
  c->faults = std::make_unique<FaultReports>(flags.fault_dir, &c->clock);
  H2O_RETURN_IF_ERROR(c->faults->Prepare());
  H2O_ASSIGN_OR_RETURN(
      c->connections,
      Connections::Listen(&*where,
                          {.message = MaxMessageBytes(flags),
                           .all = 4 * int64_t{MaxMessageBytes(flags)},
                           .seconds = flags.client_timeout_seconds},
                          &c->clock));
  H2O_RETURN_IF_ERROR(CheckExposure(flags));
  c->address = where->ToString();
  Connections* const connections = c->connections.get();
  const auto on_message = [connections](const std::string& peer,
                                        int64_t bytes) {
    connections->Take(peer, bytes);
  };
  H2O_ASSIGN_OR_RETURN(c->tokenizer, LoadTokenizer(model, config));
  H2O_ASSIGN_OR_RETURN(c->chat_template, LoadChatTemplate(flags));
  H2O_ASSIGN_OR_RETURN(
      c->engine,
      Engine::Create(options, config, c->tokenizer.get(), &c->clock));
  Engine* const engine = c->engine.get();
  DoorkeeperOptions keeper = DoorkeeperOptionsOf(flags, c->guard);
  keeper.model_names = {ModelIdOf(flags), model.model};
  c->keeper =
      std::make_unique<Doorkeeper>(std::move(keeper), engine, &c->clock);
  c->workers = std::make_unique<RemoteWorkers>(
      RemoteWorkersOptions{
          .config = config,
          .model = model,
          .version = Version(),
          .tp = flags.tp,
          .groups = flags.groups,
          .max_sequences = options.max_sequences,
          .step_deadline_seconds = c->step_deadline_seconds,
          .formation_timeout_seconds = flags.formation_timeout_seconds},
      &c->clock,
      RemoteWorkers::Observers{
          .on_ready =
              [engine,
               faults = c->faults.get()](std::unique_ptr<WorkerGroup> group) {
                Engine::GroupObserver observer = faults->ObserverOf(*group);
                engine->AddGroup(std::move(group), std::move(observer));
              },
          .on_over =
              [events, faults = c->faults.get()](const LostGroup& lost) {
                events->Write("over", lost);
                faults->OnOver(lost);
              },
          .on_left =
              [events](const LostGroup& left) { events->Write("left", left); },
          .on_message = on_message,
          .may_join =
              [keeper = c->keeper.get()](const grpc::ServerContextBase& call) {
                return keeper->AdmitWorker(
                    VisitorOf(call, "Join", keeper->checks_certificates()));
              },
          .on_refused = [engine] { engine->CountRefusal(Refusal::kWorker); }});
  RemoteWorkers* const workers = c->workers.get();
  c->inference = std::make_unique<InferenceService>(
      InferenceServiceOptions{
          .config = config,
          .tokenizer = c->tokenizer.get(),
          .default_kv_policy = options.default_kv_policy,
          .version = Version(),
          .keeper = c->keeper.get(),
          .reflection = !flags.access.no_reflection,
          .progress = [workers] { return workers->Progress(); },
          .max_request_bytes = flags.max_request_bytes,
          .client_timeout_seconds = flags.client_timeout_seconds,
          .max_unread = static_cast<size_t>(MaxStreams(flags)),
          .log_requests = flags.log_requests,
          .on_read = [connections](
                         const std::string& peer,
                         int change) { connections->Read(peer, change); },
          .on_lost = [connections](
                         const std::string& peer) { connections->Lose(peer); },
          .on_message = on_message},
      engine, &c->clock);
  c->admin = std::make_unique<AdminService>(AdminServiceOptions{
      .status = [all] { return all->Status(); },
      .drain = [workers](int group) { return workers->DrainGroup(group); },
      .keeper = c->keeper.get()});
  H2O_RETURN_IF_ERROR(StartServer(flags, c.get()));
  H2O_LOG() << "serves " << config.name << " on " << flags.groups
            << " group(s) of " << flags.tp << " worker(s)";
  return c;
}

HttpServerOptions HttpOptionsOf(const CoordinatorFlags& flags,
                                const Coordinator& c) {
  HttpServerOptions options;
  options.threads = AvailableCores() > 2 ? 2 : 1;
  options.max_connections = MaxConnections(flags);
  options.max_body_bytes = flags.max_request_bytes;
  options.header_seconds = flags.http_header_timeout_seconds;
  options.body_seconds = flags.client_timeout_seconds;
  options.write_seconds = flags.slow_client_seconds;
  options.handshakes_per_second = flags.max_handshakes;
  options.on_refused = [engine = c.engine.get()](HttpRefusal refusal) {
    engine->CountRefusal(refusal == HttpRefusal::kConnection
                             ? Refusal::kConnection
                             : Refusal::kBadRequest);
  };
  if (c.guard.tls != nullptr) options.tls = c.guard.MaterialOfHttp();
  return options;
}

// What OpenAI's API needs.  REQUIRES: the engine is made.
std::unique_ptr<OpenAiService> MakeOpenAi(const CoordinatorFlags& flags,
                                          Coordinator* c) {
  return std::make_unique<OpenAiService>(
      OpenAiServiceOptions{
          .config = c->config,
          .model = flags.model.spec.model,
          .rules = {.model_names = {c->model_id, flags.model.spec.model},
                    .default_kv_policy = c->default_kv_policy,
                    .strict_fields = flags.strict_fields},
          .tokenizer = c->tokenizer.get(),
          .chat = c->chat_template.get(),
          .overload_status = flags.overload_status,
          .log_requests = flags.log_requests},
      c->engine.get(), &c->clock);
}

// Serves HTTP where `flags` say, or at `if_free`, if that is not taken.
absl::Status StartHttp(const CoordinatorFlags& flags,
                       const std::string& if_free, Coordinator* c) {
  const bool asked = if_free.empty();
  const std::string& address = asked ? flags.http : if_free;
  if (address == "off") return absl::OkStatus();
  const absl::StatusOr<HostPort> where = ParseHostPort(address);
  if (!where.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--http: ", where.status().message()));
  }
  RemoteWorkers* const workers = c->workers.get();
  std::function<double()> expires;  // null without TLS
  if (c->guard.tls != nullptr) {
    expires = [guard = &c->guard] { return guard->Expires(); };
  }
  c->openai = MakeOpenAi(flags, c);
  c->http_service = std::make_unique<HttpService>(
      HttpServiceOptions{.model_id = c->model_id,
                         .version = Version(),
                         .commit = Commit(),
                         .vllm_metrics = flags.vllm_metrics,
                         .keeper = c->keeper.get(),
                         .metrics_right = flags.access.metrics_need_key
                                              ? Right::kKey
                                              : Right::kNone,
                         .step_deadline_seconds = c->step_deadline_seconds,
                         .loading = [workers] { return workers->Progress(); },
                         .certificate_expires = expires,
                         .status = [c] { return c->Status(); },
                         .faults = &c->faults->log(),
                         .openai = c->openai.get(),
                         .allowed_origins = flags.allowed_origins},
      c->engine.get(), &c->clock);
  absl::StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Start(
      *where, HttpOptionsOf(flags, *c),
      [service = c->http_service.get()](HttpRequest request,
                                        std::shared_ptr<HttpReply> reply) {
        service->Handle(std::move(request), std::move(reply));
      });
  if (server.ok()) {
    c->http = *std::move(server);
  } else if (asked) {
    return absl::InvalidArgumentError(
        absl::StrCat("--http: ", server.status().message()));
  } else {
    H2O_LOG(LogLevel::kWarning)
        << "no HTTP: " << server.status().message() << "; --http names another";
  }
  return absl::OkStatus();
}

// Serves until a signal comes, and returns it.
int Serve(Coordinator* c, const Events& events, const sigset_t& signals,
          StopSignals* stop_signals) {
  std::printf("listening on %s\n", c->address.c_str());
  if (c->http != nullptr) {
    const std::string http = c->http->address().ToString();
    std::printf("http on %s\n", http.c_str());
    events.Write(absl::StrCat("http ", http));
  }
  std::fflush(stdout);
  events.Write(absl::StrCat("listening ", c->address));
  int num_ready = 0;
  int signal = 0;
  while (signal == 0) {
    signal = WaitForSignal(signals);
    c->Tick();
    c->ShowHealth(/*draining=*/false);
    if (const int now_ready = c->workers->num_ready(); now_ready != num_ready) {
      num_ready = now_ready;
      events.Write(absl::StrCat("ready ", num_ready));
    }
  }
  stop_signals->Take(c->clock.Now());
  events.Write("stopping");
  return signal;
}

void LogTotals(const Engine::Counters& all) {
  H2O_LOG() << "stopped after " << all.finished << " requests, " << all.refused
            << " refused; " << all.steps << " steps of "
            << 1e3 * (all.prefill_seconds + all.decode_seconds) /
                   std::max<int64_t>(1, all.steps)
            << " ms in the workers, "
            << 1e3 * std::max(0.0, all.interval_seconds - all.step_seconds) /
                   std::max<int64_t>(1, all.intervals)
            << " ms beside them; at most " << all.peak_slabs_held
            << " KV pages held";
}

// Lets requests end within the grace time, then stops.  Another signal, unless
// it came with the first one, ends the process at once.
void Drain(Coordinator* c, double grace_seconds, const sigset_t& signals,
           StopSignals* stop_signals) {
  c->ShowHealth(/*draining=*/true);
  c->workers->Drain();
  auto drained =
      std::async(std::launch::async, [&] { c->engine->Drain(grace_seconds); });
  while (drained.wait_for(std::chrono::seconds(0)) !=
         std::future_status::ready) {
    if (WaitForSignal(signals) != 0 &&
        stop_signals->Take(c->clock.Now()) == StopSignals::Meaning::kAtOnce) {
      LogWhyItEnds("stopped at once");
      std::_Exit(kFault);
    }
    c->Tick();
  }
  const Engine::Counters all = c->engine->counters();
  c->workers->Shutdown();
  c->StopAccepting();
  const double farewell = c->steady.Now() + kFarewell.count();
  while (c->http != nullptr && c->http->num_replies() > 0 &&
         c->steady.Now() < farewell) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  c->http.reset();
  c->server->Shutdown(std::chrono::system_clock::now() + kFarewell);
  c->server->Wait();
  c->server.reset();  // before what its services use
  c->engine.reset();
  LogTotals(all);
}

absl::Status Run(const CoordinatorFlags& flags, const std::string& http_if_free,
                 int events_fd, const sigset_t& signals) {
  const Events events(events_fd);
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Coordinator> coordinator,
                       Make(flags, &events));
  H2O_RETURN_IF_ERROR(StartHttp(flags, http_if_free, coordinator.get()));
  Guard& guard = coordinator->guard;
  if (guard.tls != nullptr) guard.Follow(coordinator->http.get());
  StopSignals stop_signals;
  const int signal = Serve(coordinator.get(), events, signals, &stop_signals);
  const Engine::Counters open = coordinator->engine->counters();
  H2O_LOG() << (signal == SIGINT ? "SIGINT: " : "SIGTERM: ") << open.running
            << " running and " << open.queued << " waiting requests have "
            << flags.grace_seconds << " s to end; once more stops at once";
  Drain(coordinator.get(), flags.grace_seconds, signals, &stop_signals);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  // Before any thread is made: signals are for the loop of Run alone.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  PrepareProcess();
  LogForGrpc();

  CLI::App app(
      "Takes requests, plans steps and streams answers; workers dial in",
      "h2oserve-coordinator");
  CoordinatorFlags flags;
  AddCoordinatorFlags(&app, &flags);
  AddLogFlag(&app);
  int events_fd = -1;
  std::string http_if_free;  // as --http, but off if it is taken
  app.add_option("--events-fd", events_fd)->group("");  // for `serve`
  app.add_option("--worker-socket", flags.worker_socket)
      ->group("");                                            // likewise
  app.add_option("--http-if-free", http_if_free)->group("");  // likewise
  if (std::optional<int> code = ParseCommandLine(&app, argc, argv))
    return *code;

  const absl::Status status = Run(flags, http_if_free, events_fd, signals);
  if (!status.ok()) LogWhyItEnds(status.ToString());
  return ExitCodeFor(status);
}

}  // namespace
}  // namespace h2o

int main(int argc, char** argv) { return h2o::Main(argc, argv); }
