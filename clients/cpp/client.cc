// h2o::Client: the public types around calls that run by themselves.
#include "h2oserve/client.h"

#include <grpc/support/log.h>
#include <grpcpp/client_context.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/entropy.h"
#include "base/monitor.h"
#include "clients/cpp/connection.h"
#include "clients/cpp/generate_call.h"
#include "clients/cpp/retry.h"
#include "clients/cpp/translate.h"
#include "proto/grpc_status.h"
#include "proto/health.grpc.pb.h"
#include "proto/inference.grpc.pb.h"

namespace h2o {

namespace v1 = h2oserve::v1;
namespace health = grpc::health::v1;

// ---- Errors

std::string Error::ToString() const {
  return absl::Status(static_cast<absl::StatusCode>(code), message).ToString();
}

void Error::EndProgram() const {
  std::fprintf(stderr, "h2oserve: %s\n", ToString().c_str());
  std::abort();
}

namespace {

// gRPC would write what it meets to the program's stderr; errors say it all.
// GRPC_VERBOSITY still shows it.
void SilenceGrpc() {
  static const bool silent = std::getenv("GRPC_VERBOSITY") == nullptr;
  if (silent) gpr_set_log_function([](gpr_log_func_args* /*line*/) {});
}

}  // namespace

// ---- RunningRequest

class [[gnu::visibility("hidden")]] RunningRequest::Impl {
 public:
  explicit Impl(std::shared_ptr<GenerateCall> call) : call(std::move(call)) {}
  const std::shared_ptr<GenerateCall> call;
};

RunningRequest::RunningRequest(std::shared_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
RunningRequest::RunningRequest(RunningRequest&&) noexcept = default;
RunningRequest& RunningRequest::operator=(RunningRequest&&) noexcept = default;
RunningRequest::~RunningRequest() = default;

void RunningRequest::Cancel() { impl_->call->Cancel(); }

// ---- TokenStream

class [[gnu::visibility("hidden")]] TokenStream::Impl {
 public:
  // Between the threads that read and the one that asks.
  struct Slot {
    Monitor monitor;
    std::optional<Piece> piece ABSL_GUARDED_BY(monitor);
    bool ended ABSL_GUARDED_BY(monitor) = false;
    std::optional<Error> error ABSL_GUARDED_BY(monitor);
  };

  static GenerateCallHandler HandlerOf(const std::shared_ptr<Slot>& slot) {
    GenerateCallHandler handler;
    handler.on_response = [slot](const v1::GenerateResponse& response,
                                 int resumes) {
      Monitor::Lock lock(slot->monitor);
      slot->piece = PieceOf(response, resumes);
    };
    handler.on_end = [slot](const absl::Status& status,
                            std::optional<double> told) {
      Monitor::Lock lock(slot->monitor);
      slot->ended = true;
      if (!status.ok()) slot->error = ErrorOf(status, told);
    };
    return handler;
  }

  Impl(std::shared_ptr<Slot> slot, std::shared_ptr<GenerateCall> call)
      : slot_(std::move(slot)), call_(std::move(call)) {}
  ~Impl() { call_->Cancel(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::optional<Piece> Next() {
    std::optional<Piece> piece;
    {
      Monitor::Lock lock(slot_->monitor);
      lock.Await([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        return slot_->piece.has_value() || slot_->ended;
      });
      piece = std::exchange(slot_->piece, std::nullopt);
      if (!piece) error_ = slot_->error;
    }
    if (piece) call_->ReadOn();
    return piece;
  }

  const std::optional<Error>& error() const { return error_; }
  void Cancel() { call_->Cancel(); }

 private:
  const std::shared_ptr<Slot> slot_;
  const std::shared_ptr<GenerateCall> call_;
  std::optional<Error> error_;  // of the thread that asks
};

TokenStream::TokenStream(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
TokenStream::TokenStream(TokenStream&&) noexcept = default;
TokenStream& TokenStream::operator=(TokenStream&&) noexcept = default;
TokenStream::~TokenStream() = default;

std::optional<Piece> TokenStream::Next() { return impl_->Next(); }
const std::optional<Error>& TokenStream::error() const {
  return impl_->error();
}
void TokenStream::Cancel() { impl_->Cancel(); }

// ---- Client

class [[gnu::visibility("hidden")]] Client::Impl {
 public:
  Impl(ClientOptions options, std::shared_ptr<Connection> connection)
      : options_(std::move(options)),
        connection_(std::move(connection)),
        health_(health::Health::NewStub(connection_->channel())) {}

  std::shared_ptr<GenerateCall> Start(const GenerateRequest& request,
                                      GenerateCallHandler handler,
                                      bool on_demand) const {
    GenerateCallOptions options;
    options.timeout_seconds = request.timeout_seconds;
    if (!options.timeout_seconds && options_.timeout_seconds > 0) {
      options.timeout_seconds = options_.timeout_seconds;
    }
    options.retry = options_.retry;
    options.on_demand = on_demand;
    handler.on_retry = [tell = options_.on_retry](const absl::Status& status,
                                                  std::optional<double> told,
                                                  double pause) {
      if (tell) tell(ErrorOf(status, told), pause);
    };
    return GenerateCall::Start(connection_, MessageOf(request), options,
                               std::move(handler));
  }

  // `call(context, response)` makes a call and returns its grpc::Status.
  template <typename Response, typename Call>
  Expected<Response> Ask(const Call& call) const {
    return Ask<Response>(RetryOptions{.enabled = false}, call);
  }
  template <typename Response, typename Call>
  Expected<Response> AskAgain(const Call& call) const {
    return Ask<Response>(options_.retry, call);
  }

  v1::Inference::Stub* inference() const { return connection_->inference(); }
  v1::Admin::Stub* admin() const { return connection_->admin(); }
  health::Health::Stub* health() const { return health_.get(); }

 private:
  template <typename Response, typename Call>
  Expected<Response> Ask(const RetryOptions& retry_options, const Call& call)
      const {
    const auto deadline = DeadlineIn(options_.call_timeout_seconds);
    Retry retry(retry_options, RandomBits64());
    while (true) {
      grpc::ClientContext context;
      connection_->Prepare(deadline, &context);
      Response response;
      const absl::Status status = FromGrpc(call(&context, &response));
      if (status.ok()) return response;
      const std::optional<double> told = ToldRetryAfter(context);
      const std::optional<double> pause = retry.After(
          status, SteadyClock().Now(), connection_->last_answer(), told);
      if (!pause || DeadlineIn(*pause) > deadline) return ErrorOf(status, told);
      if (options_.on_retry) options_.on_retry(ErrorOf(status, told), *pause);
      std::this_thread::sleep_for(std::chrono::duration<double>(*pause));
    }
  }

  const ClientOptions options_;
  const std::shared_ptr<Connection> connection_;
  const std::unique_ptr<health::Health::Stub> health_;
};

Client::Client(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Expected<Client> Client::Connect(const ClientOptions& options) {
  SilenceGrpc();
  absl::StatusOr<std::shared_ptr<Connection>> connection =
      Connection::Open(options);
  if (!connection.ok()) return ErrorOf(connection.status());
  return Client(std::make_shared<const Impl>(options, *std::move(connection)));
}

Expected<Completion> Client::Generate(const GenerateRequest& request) const {
  TokenStream stream = Stream(request);
  Completion completion;
  while (std::optional<Piece> piece = stream.Next()) {
    Append(*std::move(piece), &completion);
  }
  if (stream.error()) return *stream.error();
  return completion;
}

TokenStream Client::Stream(const GenerateRequest& request) const {
  auto slot = std::make_shared<TokenStream::Impl::Slot>();
  auto call = impl_->Start(request, TokenStream::Impl::HandlerOf(slot),
                           /*on_demand=*/true);
  return TokenStream(
      std::make_shared<TokenStream::Impl>(std::move(slot), std::move(call)));
}

RunningRequest Client::Start(
    const GenerateRequest& request, std::function<void(Piece)> on_piece,
    std::function<void(std::optional<Error>)> on_end) const {
  GenerateCallHandler handler;
  handler.on_response = [take = std::move(on_piece)](
                            const v1::GenerateResponse& response, int resumes) {
    take(PieceOf(response, resumes));
  };
  handler.on_end = [end = std::move(on_end)](const absl::Status& status,
                                             std::optional<double> told) {
    end(status.ok() ? std::nullopt : std::optional(ErrorOf(status, told)));
  };
  return RunningRequest(std::make_shared<RunningRequest::Impl>(
      impl_->Start(request, std::move(handler), /*on_demand=*/false)));
}

Expected<ModelInfo> Client::GetModelInfo() const {
  const auto info = impl_->AskAgain<v1::ModelInfo>([&](auto* c, auto* answer) {
    return impl_->inference()->GetModelInfo(c, {}, answer);
  });
  if (!info) return info.error();
  return InfoOf(*info);
}

Expected<AdmissionForecast> Client::CheckAdmission(
    const GenerateRequest& request) const {
  const v1::GenerateRequest message = MessageOf(request);
  const auto forecast =
      impl_->AskAgain<v1::AdmissionAnswer>([&](auto* c, auto* answer) {
        return impl_->inference()->CheckAdmission(c, message, answer);
      });
  if (!forecast) return forecast.error();
  return ForecastOf(*forecast);
}

Expected<std::vector<int32_t>> Client::Tokenize(const std::string& text,
                                                bool add_special_tokens) const {
  v1::TokenizeRequest request;
  request.set_text(text);
  request.set_add_special_tokens(add_special_tokens);
  const auto tokens =
      impl_->AskAgain<v1::TokenizeResponse>([&](auto* c, auto* answer) {
        return impl_->inference()->Tokenize(c, request, answer);
      });
  if (!tokens) return tokens.error();
  return std::vector<int32_t>(tokens->ids().begin(), tokens->ids().end());
}

Expected<std::string> Client::Detokenize(
    const std::vector<int32_t>& tokens) const {
  v1::DetokenizeRequest request;
  request.mutable_ids()->Add(tokens.begin(), tokens.end());
  const auto text =
      impl_->AskAgain<v1::DetokenizeResponse>([&](auto* c, auto* answer) {
        return impl_->inference()->Detokenize(c, request, answer);
      });
  if (!text) return text.error();
  return text->text();
}

Expected<bool> Client::IsReady() const {
  const auto answer =
      impl_->Ask<health::HealthCheckResponse>([&](auto* c, auto* answer) {
        return impl_->health()->Check(c, {}, answer);
      });
  if (!answer) return answer.error();
  return answer->status() == health::HealthCheckResponse::SERVING;
}

Expected<std::string> Client::GetStatus() const {
  const auto status = impl_->Ask<v1::Status>([&](auto* c, auto* answer) {
    return impl_->admin()->GetStatus(c, {}, answer);
  });
  if (!status) return status.error();
  return status->json();
}

std::optional<Error> Client::Drain(int32_t group) const {
  v1::DrainRequest request;
  request.set_group(group);
  const auto done = impl_->Ask<v1::DrainResponse>([&](auto* c, auto* answer) {
    return impl_->admin()->Drain(c, request, answer);
  });
  if (!done) return done.error();
  return std::nullopt;
}

}  // namespace h2o
