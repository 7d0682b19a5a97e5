// `h2oserve call`: generates text on a server, with the options and the output
// of `generate`.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/entropy.h"
#include "base/status_macros.h"
#include "base/stop_signals.h"
#include "clients/answers.h"
#include "clients/blocked_signals.h"
#include "clients/caller.h"
#include "clients/commands.h"
#include "clients/cpp/connection.h"
#include "clients/cpp/generate_call.h"
#include "clients/http_caller.h"
#include "clients/input.h"
#include "clients/server_flags.h"
#include "flags/exit_code.h"
#include "flags/flags.h"
#include "proto/grpc_log.h"
#include "proto/request_proto.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

struct CallFlags {
  ServerFlags server;
  std::string http;  // a URL; empty: --server
  RequestFlags request;
  OutputFlags output;
  double timeout_seconds = 0;  // 0: none
  bool no_retry = false;
  std::string trace;  // refused with a hint
};

// Calls over gRPC at once: as many as a server with its default queue accepts.
constexpr size_t kMostCalls = 512;

// How often ended calls and signals are looked at.
constexpr double kGlanceSeconds = 0.02;

// Threads  one owner; answers come in gRPC's threads.
class GrpcCaller final : public Caller {
 public:
  GrpcCaller(std::vector<v1::GenerateRequest> messages,
             std::shared_ptr<Connection> connection, CallerOptions options)
      : messages_(std::move(messages)),
        connection_(std::move(connection)),
        on_retry_(std::move(options.on_retry)) {
    options_.timeout_seconds = options.timeout_seconds;
    options_.retry = options.retry;
  }

  // Waits for the last words of calls that are over.
  ~GrpcCaller() override {
    for (TakeEnded(); !running_.empty(); TakeEnded()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  GrpcCaller(const GrpcCaller&) = delete;

  void StartMore() override {
    TakeEnded();
    for (; next_ < messages_.size() && running_.size() < kMostCalls; ++next_) {
      if (answers()->Has(next_)) continue;
      running_[next_] = GenerateCall::Start(
          connection_, std::move(messages_[next_]), options_, HandlerOf(next_));
    }
  }

  void Cancel() override {
    for (const auto& [i, call] : running_) call->Cancel();
    for (; next_ < messages_.size(); ++next_) {
      if (answers()->Has(next_)) continue;
      answers()->Close(next_,
                       absl::CancelledError("cancelled before it was asked"));
    }
  }

 private:
  GenerateCallHandler HandlerOf(size_t i) {
    GenerateCallHandler handler;
    handler.on_response = [this, i](const v1::GenerateResponse& response,
                                    int /*resumes*/) {
      answers()->Add(i, FromProto(response));
    };
    handler.on_end = [this, i](const absl::Status& status,
                               std::optional<double> /*told*/) {
      answers()->Close(i, status);
      std::lock_guard lock(mutex_);
      ended_.push_back(i);
    };
    handler.on_retry = [this](const absl::Status& status,
                              std::optional<double> /*told*/,
                              double pause) { on_retry_(status, pause); };
    return handler;
  }

  void TakeEnded() {
    std::vector<size_t> ended;
    {
      std::lock_guard lock(mutex_);
      ended.swap(ended_);
    }
    for (const size_t i : ended) running_.erase(i);
  }

  std::vector<v1::GenerateRequest> messages_;  // from next_ on
  const std::shared_ptr<Connection> connection_;
  const std::function<void(const absl::Status&, double)> on_retry_;
  GenerateCallOptions options_;
  size_t next_ = 0;  // the first prompt that is not asked
  std::map<size_t, std::shared_ptr<GenerateCall>> running_;

  std::mutex mutex_;  // guards what follows
  std::vector<size_t> ended_;
};

// Tells people who wait why.  Programs get one line, at the end.
//
// Threads  any.
class RetryNotes {
 public:
  void Tell(const std::string& server, const absl::Status& status,
            double pause) {
    if (isatty(STDERR_FILENO) == 0) return;
    std::lock_guard lock(mutex_);
    if (status.message() == told_) return;
    told_ = std::string(status.message());
    std::fprintf(stderr, "server %s: %s; trying again in %.1f s\n",
                 server.c_str(), status.ToString().c_str(), pause);
  }

 private:
  std::mutex mutex_;
  std::string told_;  // guarded by it
};

const std::string& NameOf(const CallFlags& flags) {
  return flags.http.empty() ? flags.server.server : flags.http;
}

absl::Status CheckFlags(const CallFlags& flags) {
  if (!flags.trace.empty()) {
    return absl::InvalidArgumentError(
        "--trace: servers do not send traces; use generate");
  }
  if (flags.http.empty() == flags.server.server.empty()) {
    return absl::InvalidArgumentError(
        "give either --server HOST:PORT or --http URL");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Caller>> CallerOverGrpc(
    const CallFlags& flags, const std::vector<Prompt>& prompts,
    CallerOptions options) {
  std::vector<v1::GenerateRequest> messages;
  for (const Prompt& prompt : prompts) {
    H2O_ASSIGN_OR_RETURN(messages.emplace_back(), ToProto(prompt.request));
  }
  LogForGrpc();
  H2O_ASSIGN_OR_RETURN(std::shared_ptr<Connection> connection,
                       Connection::Open(OptionsOf(flags.server)));
  return std::make_unique<GrpcCaller>(
      std::move(messages), std::move(connection), std::move(options));
}

absl::StatusOr<std::unique_ptr<Caller>> CallerOverHttp(
    const CallFlags& flags, const std::vector<Prompt>& prompts,
    CallerOptions options) {
  H2O_ASSIGN_OR_RETURN(
      const HttpServerPlace place,
      HttpServerPlaceOf("--http", flags.http, flags.server.credentials));
  return NewHttpCaller(place, prompts, std::move(options));
}

absl::Status Run(const CallFlags& flags) {
  H2O_RETURN_IF_ERROR(CheckFlags(flags));
  H2O_ASSIGN_OR_RETURN(const std::vector<Prompt> prompts,
                       PromptsOf(flags.request, RandomBits64()));
  const BlockedSignals signals;
  RetryNotes notes;
  CallerOptions options = {
      .retry = {.enabled = !flags.no_retry},
      .on_retry = [&](const absl::Status& why, double pause) {
        notes.Tell(NameOf(flags), why, pause);
      }};
  if (flags.timeout_seconds > 0) {
    options.timeout_seconds = flags.timeout_seconds;
  }
  const auto over = flags.http.empty() ? CallerOverGrpc : CallerOverHttp;
  H2O_ASSIGN_OR_RETURN(std::unique_ptr<Caller> caller,
                       over(flags, prompts, std::move(options)));
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Answers> answers,
                       Answers::Create(flags.output, prompts, "calling"));
  caller->ReportTo(answers.get());
  const SteadyClock clock;
  StopSignals stop_signals;
  for (; !answers->Finished(); answers->Print()) {
    caller->StartMore();
    answers->WaitForMore(kGlanceSeconds);
    if (!signals.Taken()) continue;
    const StopSignals::Meaning meaning = stop_signals.Take(clock.Now());
    if (meaning == StopSignals::Meaning::kAtOnce) std::_Exit(kFault);
    if (meaning == StopSignals::Meaning::kStop) caller->Cancel();
  }
  caller.reset();  // it may still report
  return NamingServer(NameOf(flags), answers->Verdict());
}

}  // namespace

void AddCallCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<CallFlags>();
  CLI::App* command =
      app->add_subcommand("call", "Generates text on a server; Ctrl-C cancels");
  AddServerFlags(command, kKeyHelp, &flags->server);
  command->get_option("--server")->required(false);
  command
      ->add_option("--http", flags->http,
                   "Instead of --server: ask over HTTP, at http://HOST:PORT or "
                   "https://HOST:PORT")
      ->type_name("URL");
  AddRequestFlags(command, &flags->request);
  AddOutputFlags(command, &flags->output);
  command
      ->add_option("--timeout", flags->timeout_seconds,
                   "Deadline of each request, with all its attempts; 0: none")
      ->check(Within(0, 1e9, "a number of seconds, 0 or more"))
      ->type_name("S");
  command->add_flag("--no-retry", flags->no_retry,
                    "Ask once. By default prompts are asked again, ever later, "
                    "if the server cannot be reached (about 8 s long) or its "
                    "queue is full");
  command->add_option("--trace", flags->trace)->group("");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
