// `h2oserve call`: generates text on a server, with the options and the output
// of `generate`.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/entropy.h"
#include "base/status_macros.h"
#include "base/stop_signals.h"
#include "clients/answers.h"
#include "clients/commands.h"
#include "clients/input.h"
#include "clients/retry.h"
#include "clients/server_address.h"
#include "flags/access_flags.h"
#include "flags/exit_code.h"
#include "flags/flags.h"
#include "proto/channel.h"
#include "proto/grpc_log.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"
#include "proto/request_proto.h"
#include "proto/retry_after.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

struct CallFlags {
  std::string server;
  RequestFlags request;
  OutputFlags output;
  double timeout_seconds = 0;  // 0: none
  bool no_retry = false;
  std::string api_key;
  ClientTlsFlags tls;
  std::string trace;  // refused with a hint
};

// Calls at once: as many as a server with its default queue accepts.
constexpr size_t kMostCalls = 512;

// How often ended calls and signals are looked at.
constexpr double kGlanceSeconds = 0.02;

// Calls that have ended, for the thread that made them.
class EndedCalls {
 public:
  struct Ended {
    size_t prompt;
    absl::Status status;
    std::optional<double> retry_after;  // seconds, if the server has told
  };
  void Push(Ended ended) {
    std::lock_guard lock(mutex_);
    ended_.push_back(std::move(ended));
  }
  std::vector<Ended> Take() {
    std::lock_guard lock(mutex_);
    return std::exchange(ended_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<Ended> ended_;
};

// What the server has told of when to ask again.
std::optional<double> RetryAfter(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto told = metadata.find(kRetryAfterKey);
  int64_t ms = 0;
  if (told == metadata.end() ||
      !absl::SimpleAtoi(std::string(told->second.data(), told->second.size()),
                        &ms)) {
    return std::nullopt;
  }
  return static_cast<double>(ms) / 1000;
}

// One attempt of a Generate call.  What it receives goes to `answers`, its end
// to `ended`.
class Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(v1::Inference::Stub* stub, const v1::GenerateRequest* request,
       std::optional<std::chrono::system_clock::time_point> deadline,
       const std::string& api_key, size_t prompt, Answers* answers,
       EndedCalls* ended)
      : prompt_(prompt), answers_(answers), ended_(ended) {
    if (deadline) context_.set_deadline(*deadline);
    if (!api_key.empty()) {
      context_.AddMetadata("authorization", absl::StrCat("Bearer ", api_key));
    }
    stub->async()->Generate(&context_, request, this);
    StartRead(&response_);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }  // any thread

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const StreamEvent event = FromProto(response_);
    complete_ |= event.finish != FinishReason::kNone;
    answers_->Add(prompt_, event);
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    absl::Status end = FromGrpc(status);
    if (end.ok() && !complete_) {
      end = absl::InternalError("the stream ended without a finish reason");
    }
    // At once, so that it is printed; failures may be tried again.
    if (end.ok()) answers_->Close(prompt_, end);
    ended_->Push({prompt_, std::move(end), RetryAfter(context_)});
  }

 private:
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  bool complete_ = false;
  const size_t prompt_;
  Answers* const answers_;
  EndedCalls* const ended_;
};

// Asks a server all prompts that have no answer yet, and those that it could
// not take once more.
//
// Threads  one; calls end in gRPC's.
class Caller {
 public:
  Caller(const CallFlags& flags, std::vector<v1::GenerateRequest> messages,
         v1::Inference::Stub* stub, Answers* answers)
      : flags_(flags),
        stub_(stub),
        answers_(answers),
        last_answer_(clock_.Now()),
        prompts_(messages.size()) {
    const uint64_t seed = RandomBits64();
    for (size_t i = 0; i < messages.size(); ++i) {
      prompts_[i].message = std::move(messages[i]);
      prompts_[i].retry = Retry(seed + i);
      if (!answers->Has(i)) due_.emplace(0, i);
    }
  }

  // Waits for the last words of calls that are over.
  ~Caller() {
    for (TakeEnded(); open_ > 0; TakeEnded()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  Caller(const Caller&) = delete;

  // Begins the calls whose time has come.
  void StartDue() {
    while (!due_.empty() && due_.begin()->first <= clock_.Now() &&
           open_ < kMostCalls) {
      const size_t i = due_.begin()->second;
      due_.erase(due_.begin());
      Asked& prompt = prompts_[i];
      if (flags_.timeout_seconds > 0 && !prompt.deadline) {
        prompt.deadline = std::chrono::system_clock::now() +
                          std::chrono::milliseconds(static_cast<int64_t>(
                              flags_.timeout_seconds * 1000));
      }
      ++open_;
      prompt.call =
          std::make_unique<Call>(stub_, &prompt.message, prompt.deadline,
                                 flags_.api_key, i, answers_, &ended_);
    }
  }

  // Looks at the calls that have ended.
  void TakeEnded() {
    for (const EndedCalls::Ended& end : ended_.Take()) {
      --open_;
      prompts_[end.prompt].call.reset();
      if (end.status.ok()) {
        last_answer_ = clock_.Now();
      } else if (!Again(end)) {
        answers_->Close(end.prompt, end.status);
      }
    }
  }

  // Cancels calls that run, and makes no other ones.
  void Cancel() {
    cancelled_ = true;
    for (const Asked& prompt : prompts_) {
      if (prompt.call != nullptr) prompt.call->Cancel();
    }
    for (const auto& [time, i] : due_) {
      answers_->Close(i, absl::CancelledError("cancelled before it was asked"));
    }
    due_.clear();
  }

 private:
  struct Asked {
    v1::GenerateRequest message;
    Retry retry{0};
    std::optional<std::chrono::system_clock::time_point> deadline;
    std::unique_ptr<Call> call;  // null: none runs
  };

  // Whether the prompt is asked again, later.
  bool Again(const EndedCalls::Ended& end) {
    if (flags_.no_retry || cancelled_) return false;
    Asked& prompt = prompts_[end.prompt];
    const std::optional<double> wait = prompt.retry.After(
        end.status, clock_.Now(), last_answer_, end.retry_after);
    if (!wait) return false;
    const auto pause = std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::duration<double>(*wait));
    if (prompt.deadline &&
        std::chrono::system_clock::now() + pause > *prompt.deadline) {
      return false;
    }
    if (!answers_->Reopen(end.prompt)) return false;
    due_.emplace(clock_.Now() + *wait, end.prompt);
    Tell(end.status, *wait);
    return true;
  }

  // For people who wait.  Programs get one line, at the end.
  void Tell(const absl::Status& status, double wait) {
    if (isatty(STDERR_FILENO) == 0 || status.message() == told_) return;
    told_ = std::string(status.message());
    std::fprintf(stderr, "server %s: %s; trying again in %.1f s\n",
                 flags_.server.c_str(), status.ToString().c_str(), wait);
  }

  const CallFlags& flags_;
  v1::Inference::Stub* const stub_;
  Answers* const answers_;
  const SteadyClock clock_;
  double last_answer_;
  EndedCalls ended_;
  std::vector<Asked> prompts_;
  std::multimap<double, size_t> due_;  // prompts to ask, by time
  size_t open_ = 0;                    // calls that run
  bool cancelled_ = false;
  std::string told_;
};

// SIGINT and SIGTERM, blocked and polled.  Must be made before gRPC starts its
// threads, because they inherit the signal mask.
class Signals {
 public:
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set_, &before_);
  }
  ~Signals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  bool Taken() const {
    const timespec now{};
    return sigtimedwait(&set_, nullptr, &now) > 0;
  }

 private:
  sigset_t set_, before_;
};

absl::Status Run(const CallFlags& flags) {
  if (!flags.trace.empty()) {
    return absl::InvalidArgumentError(
        "--trace: servers do not send traces; use generate");
  }
  H2O_ASSIGN_OR_RETURN(const std::vector<Prompt> prompts,
                       PromptsOf(flags.request, RandomBits64()));
  H2O_RETURN_IF_ERROR(CheckServer(flags.server));
  H2O_RETURN_IF_ERROR(CheckKey(flags.api_key));
  H2O_ASSIGN_OR_RETURN(const TlsMaterial tls, MaterialOf(flags.tls));
  std::vector<v1::GenerateRequest> messages;
  for (const Prompt& prompt : prompts) {
    H2O_ASSIGN_OR_RETURN(messages.emplace_back(), ToProto(prompt.request));
  }
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Answers> answers,
                       Answers::Create(flags.output, prompts, "calling"));

  const Signals signals;
  LogForGrpc();
  const std::shared_ptr<grpc::Channel> channel =
      ClientChannel(flags.server, NoProxy(), tls);
  const auto stub = v1::Inference::NewStub(channel);
  Caller caller(flags, std::move(messages), stub.get(), answers.get());
  const SteadyClock clock;
  StopSignals stop_signals;
  for (; !answers->Finished(); answers->Print()) {
    caller.StartDue();
    answers->WaitForMore(kGlanceSeconds);
    caller.TakeEnded();
    if (!signals.Taken()) continue;
    const StopSignals::Meaning meaning = stop_signals.Take(clock.Now());
    if (meaning == StopSignals::Meaning::kAtOnce) std::_Exit(kFault);
    if (meaning == StopSignals::Meaning::kStop) caller.Cancel();
  }
  return NamingServer(flags.server, answers->Verdict());
}

}  // namespace

void AddCallCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<CallFlags>();
  CLI::App* command =
      app->add_subcommand("call", "Generates text on a server; Ctrl-C cancels");
  command->add_option("--server", flags->server, "Address of the server")
      ->required()
      ->type_name("HOST:PORT");
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
  command
      ->add_option("--api-key", flags->api_key,
                   "Key, where the server takes some; better in the variable, "
                   "which other users of this host cannot see")
      ->envname("H2OSERVE_API_KEY")
      ->type_name("KEY");
  AddClientTlsFlags(command, &flags->tls);
  command->add_option("--trace", flags->trace)->group("");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
