// Runs the attempts of a Generate request, and the pauses between them.
#include "clients/cpp/generate_call.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <string>
#include <utility>

#include "base/entropy.h"
#include "proto/grpc_status.h"

namespace h2o {

namespace v1 = h2oserve::v1;

void GoOnBehind(bool first, v1::GenerateResponse* response,
                v1::GenerateRequest* request) {
  request->mutable_generated()->MergeFrom(response->tokens());
  if (!first) {
    response->clear_seed();
    return;
  }
  request->mutable_sampling()->set_prompt_logprobs(false);
  if (response->has_seed()) {
    request->mutable_sampling()->set_seed(response->seed());
  }
  if (request->request_id().empty()) {
    request->set_request_id(response->request_id());
  }
}

namespace {

// The first channel that is called stays for as long as the process.  gRPC 1.51
// frees the queue of its callbacks with the last such channel, and frees it
// twice if another one comes meanwhile.
void KeepCallbackQueue(const std::shared_ptr<grpc::Channel>& channel) {
  // `used`: nobody reads it, and without the pointer a leak checker of whoever
  // links this library would call the channel lost.
  [[gnu::used]] static const auto* const kept =
      new std::shared_ptr<grpc::Channel>(channel);
}

}  // namespace

class GenerateCall::Attempt final
    : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  // REQUIRES: `request` outlives the attempt, or changes after a response.
  Attempt(std::shared_ptr<GenerateCall> call,
          const v1::GenerateRequest* request)
      : call_(std::move(call)) {
    const Connection& connection = *call_->connection_;
    connection.Prepare(call_->deadline_, &context_);
    KeepCallbackQueue(connection.channel());
    connection.inference()->async()->Generate(&context_, request, this);
    if (call_->on_demand_) AddHold();  // reads come from other threads
    StartRead(&response_);
    StartCall();
  }

  void TryCancel() { context_.TryCancel(); }
  void ReadOn() { StartRead(&response_); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      if (call_->on_demand_) RemoveHold();
      return;
    }
    if (call_->OnResponse(std::move(response_))) StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<GenerateCall> call = call_;
    call->OnAttemptDone(FromGrpc(status), ToldRetryAfter(context_));
    // `this` is gone.
  }

 private:
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  const std::shared_ptr<GenerateCall> call_;
};

GenerateCall::GenerateCall(std::shared_ptr<Connection> connection,
                           v1::GenerateRequest request,
                           const GenerateCallOptions& options,
                           GenerateCallHandler handler)
    : connection_(std::move(connection)),
      handler_(std::move(handler)),
      deadline_(options.timeout_seconds
                    ? std::optional(DeadlineIn(*options.timeout_seconds))
                    : std::nullopt),
      on_demand_(options.on_demand),
      request_(std::move(request)),
      retry_(options.retry, RandomBits64()) {}

std::shared_ptr<GenerateCall> GenerateCall::Start(
    std::shared_ptr<Connection> connection, v1::GenerateRequest request,
    const GenerateCallOptions& options, GenerateCallHandler handler) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(
      std::move(connection), std::move(request), options, std::move(handler)));
  call->Begin();
  return call;
}

void GenerateCall::Begin() {
  // An alarm keeps what it calls, and so this call, even when it has rung.
  std::shared_ptr<grpc::Alarm> rung;
  {
    std::lock_guard lock(mutex_);
    rung = std::move(alarm_);
    gained_ = false;
    if (!cancelled_) {
      attempt_ = std::make_unique<Attempt>(shared_from_this(), &request_);
      return;
    }
  }
  handler_.on_end(absl::CancelledError("cancelled before it was asked again"),
                  std::nullopt);
}

void GenerateCall::Cancel() {
  std::shared_ptr<grpc::Alarm> alarm;
  {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (attempt_ != nullptr) attempt_->TryCancel();
    if (std::exchange(waits_, false)) attempt_->ReadOn();
    alarm = alarm_;
  }
  if (alarm != nullptr) alarm->Cancel();
}

void GenerateCall::ReadOn() {
  std::lock_guard lock(mutex_);
  if (std::exchange(waits_, false)) attempt_->ReadOn();
}

bool GenerateCall::OnResponse(v1::GenerateResponse response) {
  int resumes = 0;
  {
    std::lock_guard lock(mutex_);
    if (cancelled_) return true;
    gained_ |= !response.tokens().empty();
    complete_ |= response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
    GoOnBehind(!std::exchange(began_, true), &response, &request_);
    waits_ = on_demand_;
    resumes = resumes_;
  }
  // May lead to ReadOn() at once.
  handler_.on_response(std::move(response), resumes);
  return !on_demand_;
}

void GenerateCall::OnAttemptDone(absl::Status status,
                                 std::optional<double> told) {
  std::unique_ptr<Attempt> done;  // destroyed without the lock
  std::optional<double> pause;
  {
    std::lock_guard lock(mutex_);
    done = std::move(attempt_);
    if (status.ok() && !complete_) {
      status = absl::InternalError("the stream ended without a finish reason");
    }
    if (status.ok()) {
      connection_->SetLastAnswer(clock_.Now());
    } else {
      if (absl::IsCancelled(status) && !cancelled_ && !gained_) {
        // gRPC, in a server that stops, cancels calls that the server has not
        // seen.
        status =
            absl::UnavailableError("the server stopped before it answered");
      }
      pause = PauseAfter(status, told);
    }
  }
  if (!pause) return handler_.on_end(status, told);
  if (handler_.on_retry) handler_.on_retry(status, told, *pause);
  BeginAfter(*pause);
}

// None: the failure stands.
std::optional<double> GenerateCall::PauseAfter(const absl::Status& status,
                                               std::optional<double> told) {
  if (cancelled_ || complete_) return std::nullopt;
  if (gained_) {
    if (!absl::IsUnavailable(status)) return std::nullopt;
    retry_.Restart();
  }
  const std::optional<double> pause =
      retry_.After(status, clock_.Now(), connection_->last_answer(), told);
  if (pause && deadline_ && DeadlineIn(*pause) > *deadline_) {
    return std::nullopt;
  }
  if (pause && gained_) ++resumes_;
  return pause;
}

void GenerateCall::BeginAfter(double seconds) {
  {
    std::lock_guard lock(mutex_);
    if (!cancelled_) {
      alarm_ = std::make_shared<grpc::Alarm>();
      alarm_->Set(DeadlineIn(seconds), [self = shared_from_this()](
                                           bool /*fired*/) { self->Begin(); });
      return;
    }
  }
  Begin();
}

}  // namespace h2o
