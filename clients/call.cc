// `h2oserve call`: generates text on a server, with the options and the output
// of `generate`.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"
#include "api/result.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/input.h"
#include "clients/output.h"
#include "flags/flags.h"
#include "proto/channel.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"
#include "proto/request_proto.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

struct CallFlags {
  std::string server;
  RequestFlags request;
  bool json = false;
  double timeout_seconds = 0;  // 0: none
  std::string trace;           // refused with a hint
};

// Calls at once: as many as a server with its default queue accepts.
constexpr size_t kMostCalls = 512;

// The results of all calls; the printer waits for them here.
struct Answers {
  explicit Answers(size_t n) : results(n), done(n) {}

  size_t NumDone() {
    std::lock_guard lock(mutex);
    return num_done;
  }
  // Prompts from `first` on will not be sent.
  void Drop(size_t first) {
    std::lock_guard lock(mutex);
    for (size_t i = first; i < results.size(); ++i) {
      results[i].status = absl::CancelledError("cancelled before it was asked");
      done[i] = true;
      ++num_done;
    }
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Result> results;  // by prompt; guarded by mutex, as is `done`
  std::vector<bool> done;
  size_t num_done = 0;
};

// One Generate call.  Everything it receives goes to `answers`.
class Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(v1::Inference::Stub* stub, v1::GenerateRequest request,
       double timeout_seconds, Answers* answers, size_t index)
      : request_(std::move(request)), answers_(answers), index_(index) {
    if (timeout_seconds > 0) {
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::milliseconds(
                                static_cast<int64_t>(timeout_seconds * 1000)));
    }
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }  // any thread

  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      std::lock_guard lock(answers_->mutex);
      answers_->results[index_].Add(FromProto(response_));
      answers_->changed.notify_all();
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    std::lock_guard lock(answers_->mutex);
    Result& result = answers_->results[index_];
    result.status = FromGrpc(status);
    if (status.ok() && result.finish == FinishReason::kNone) {
      result.status =
          absl::InternalError("the stream ended without a finish reason");
    }
    if (!result.status.ok()) {
      result.usage.completion_tokens =
          static_cast<int32_t>(result.tokens.size());
    }
    answers_->done[index_] = true;
    ++answers_->num_done;
    answers_->changed.notify_all();
  }

 private:
  grpc::ClientContext context_;
  const v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  Answers* const answers_;
  const size_t index_;
};

// Prints answers in input order.  The text of the first unfinished one is
// streamed; the others wait for their turn.
class Printer {
 public:
  Printer(Answers* answers, bool json) : answers_(answers), json_(json) {}

  // Prints what has arrived and waits a little for more; false once everything
  // is printed.
  bool Print() {
    std::unique_lock lock(answers_->mutex);
    while (next_ < answers_->results.size()) {
      const Result& result = answers_->results[next_];
      if (!json_) {
        std::fwrite(result.text.data() + printed_, 1,
                    result.text.size() - printed_, stdout);
        printed_ = result.text.size();
      }
      if (!answers_->done[next_]) break;
      Finish(result);
      printed_ = 0;
      ++next_;
    }
    std::fflush(stdout);
    if (next_ == answers_->results.size()) return false;
    answers_->changed.wait_for(lock, std::chrono::milliseconds(50));
    return true;
  }

  // The first failure, and how many there were.
  absl::Status Failure() const {
    if (failures_ == 0 || answers_->results.size() == 1) return first_failure_;
    return absl::Status(
        first_failure_.code(),
        absl::StrCat(failures_, " of ", answers_->results.size(),
                     " prompts failed; prompt ", first_failed_, ": ",
                     first_failure_.message()));
  }

 private:
  void Finish(const Result& result) {
    std::puts(json_ ? ResultJson(result).c_str() : "");
    std::fflush(stdout);  // before what goes to stderr
    if (result.status.ok()) {
      if (!json_) std::fprintf(stderr, "%s\n", UsageLine(result).c_str());
    } else if (failures_++ == 0) {
      first_failure_ = result.status;
      first_failed_ = next_;
    }
  }

  Answers* const answers_;
  const bool json_;
  size_t next_ = 0;     // the first prompt that is not printed
  size_t printed_ = 0;  // bytes of its text that are
  int failures_ = 0;
  size_t first_failed_ = 0;
  absl::Status first_failure_;
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
  H2O_ASSIGN_OR_RETURN(const std::vector<Request> requests,
                       RequestsOf(flags.request, RandomBits64()));
  std::vector<v1::GenerateRequest> messages;
  for (const Request& request : requests) {
    H2O_ASSIGN_OR_RETURN(messages.emplace_back(), ToProto(request));
  }

  const Signals signals;
  const std::shared_ptr<grpc::Channel> channel = ClientChannel(flags.server);
  const auto stub = v1::Inference::NewStub(channel);
  Answers answers(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    answers.results[i].index = static_cast<int>(i);
  }
  std::vector<std::unique_ptr<Call>> calls;
  bool cancelled = false;
  const auto start_more = [&] {
    while (!cancelled && calls.size() < messages.size() &&
           calls.size() - answers.NumDone() < kMostCalls) {
      const size_t i = calls.size();
      calls.push_back(std::make_unique<Call>(stub.get(), std::move(messages[i]),
                                             flags.timeout_seconds, &answers,
                                             i));
    }
  };
  start_more();
  Printer printer(&answers, flags.json);
  while (printer.Print()) {
    start_more();
    if (!signals.Taken()) continue;
    if (cancelled) std::_Exit(1);
    cancelled = true;
    for (const auto& call : calls) call->Cancel();
    answers.Drop(calls.size());
  }
  absl::Status failure = printer.Failure();
  if (failure.ok()) return failure;
  return absl::Status(failure.code(), absl::StrCat("server ", flags.server,
                                                   ": ", failure.ToString()));
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
  command->add_flag("--json", flags->json,
                    "Print one JSON object for each prompt, in input order");
  command
      ->add_option("--timeout", flags->timeout_seconds,
                   "Deadline of each request; 0: none")
      ->check(CLI::Range(0.0, 1e9))
      ->type_name("S");
  command->add_option("--trace", flags->trace)->group("");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
