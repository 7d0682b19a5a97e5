// Reads, runs and answers one Generate call.
#include "coordinator/generate_stream.h"

#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "api/refusal.h"
#include "base/entropy.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/traceparent.h"
#include "coordinator/end_line.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"
#include "proto/request_proto.h"
#include "proto/retry_after.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

constexpr int kMaxRequestId = 128;

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::StatusOr<std::string> RequestIdOf(const v1::GenerateRequest& message) {
  const std::string& id = message.request_id();
  if (id.empty()) {
    return absl::StrCat("req-", absl::Hex(RandomBits64(), absl::kZeroPad16));
  }
  if (id.size() > kMaxRequestId) {
    return Bad("request_id has ", id.size(), " bytes; at most ", kMaxRequestId,
               " are allowed");
  }
  if (std::any_of(id.begin(), id.end(), [](char c) {
        return static_cast<unsigned char>(c) < ' ' || c == 0x7f;
      })) {
    return Bad("request_id contains a control character; use printable text");
  }
  return id;
}

// Until the client's deadline; none: it has none.
std::optional<double> SecondsLeft(
    const grpc::GenericCallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return std::nullopt;
  }
  return std::chrono::duration<double>(deadline -
                                       std::chrono::system_clock::now())
      .count();
}

// Of the call; empty: it has none that fits the standard.
std::string TraceparentOf(const grpc::GenericCallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(kTraceparentKey);
  if (found == metadata.end()) return "";
  const std::string_view value(found->second.data(), found->second.size());
  return IsTraceparent(value) ? std::string(value) : "";
}

}  // namespace

GenerateStream::GenerateStream(grpc::GenericCallbackServerContext* context,
                               const GenerateDoor* door,
                               absl::StatusOr<TenantRow> tenant,
                               std::function<void(GenerateStream*)> on_done)
    : context_(context),
      door_(door),
      tenant_(std::move(tenant)),
      on_done_(std::move(on_done)),
      peer_(context->peer()),
      began_(door->clock->Now()) {}

void GenerateStream::Start(std::shared_ptr<GenerateStream> self) {
  self_ = self;
  door_->turns->Enter(peer_, std::move(self));
}

// ---- The message

void GenerateStream::BeginRead() {
  std::lock_guard lock(mutex_);
  if (stage_ != Stage::kWaits) return;
  stage_ = Stage::kReads;
  StartRead(&received_);
}

void GenerateStream::GiveUpTurn() {
  std::lock_guard lock(mutex_);
  if (stage_ != Stage::kWaits) return;
  door_->engine->CountRefusal(Refusal::kConnection);
  const std::string why =
      "too many requests begin at once, and this connection began most of them";
  door_->refused->Add(LogLevel::kWarning, "",
                      absl::StrCat("refused: ", peer_, ": ", why));
  End(absl::ResourceExhaustedError(why));
}

void GenerateStream::OnReadDone(bool ok) {
  bool lost = false;
  {
    std::lock_guard lock(mutex_);
    if (ok && stage_ == Stage::kReads) {
      stage_ = Stage::kRuns;
    } else if (stage_ == Stage::kReads) {
      End(Bad("the call ended before its request was whole"));
      ok = false;
    } else {
      ok = false;  // given up
    }
    lost = !ok && !given_up_;
  }
  if (lost && door_->on_lost) door_->on_lost(peer_);
  if (ok && door_->on_message) {
    door_->on_message(peer_, static_cast<int64_t>(received_.Length()));
  }
  door_->turns->Leave(peer_, this);
  if (ok) Submit();
}

absl::StatusOr<Request> GenerateStream::TakeRequest() {
  const auto bytes = static_cast<int64_t>(received_.Length());
  if (bytes > door_->max_request_bytes) {
    return Bad("the request has ", bytes, " bytes; at most ",
               door_->max_request_bytes, " are allowed");
  }
  // Before a byte of it is read.
  if (bytes > door_->most_request_bytes) {
    return Bad("the request has ", bytes, " bytes; one for the model's ",
               door_->max_positions, " positions has at most ",
               door_->most_request_bytes);
  }
  v1::GenerateRequest message;
  const grpc::Status parsed =
      grpc::SerializationTraits<v1::GenerateRequest>::Deserialize(&received_,
                                                                  &message);
  if (!parsed.ok()) {
    return Bad(
        "the request is no GenerateRequest of inference.proto, or a "
        "text in it is not UTF-8");
  }
  H2O_ASSIGN_OR_RETURN(request_id_, RequestIdOf(message));
  if (const std::string trace = TraceparentOf(*context_); !trace.empty()) {
    context_->AddInitialMetadata(kTraceparentKey, trace);
    trace_note_ = absl::StrCat(" (trace ", TraceIdOf(trace), ")");
  }
  H2O_ASSIGN_OR_RETURN(Request request,
                       FromProto(message, door_->default_kv_policy));
  if (!request.has_seed) request.sampling.seed = RandomBits64();
  request.tenant = *tenant_;
  request.timeout_seconds = SecondsLeft(*context_);
  return request;
}

void GenerateStream::Submit() {
  if (!tenant_.ok()) {  // the doorkeeper has counted and logged it
    std::lock_guard lock(mutex_);
    return End(tenant_.status());
  }
  absl::StatusOr<Request> request = TakeRequest();
  received_.Clear();
  if (!request.ok()) {
    door_->engine->CountRefusal(Refusal::kBadRequest);
    return Refuse(request.status());
  }
  // Not self_, which OnDone may reset meanwhile.
  std::unique_lock lock(mutex_);
  std::shared_ptr<GenerateStream> self = self_;
  lock.unlock();
  absl::StatusOr<uint64_t> id = door_->engine->Submit(
      *std::move(request), [self = std::move(self)](StreamEvent event) {
        self->OnEvent(std::move(event));
      });
  if (!id.ok()) return Refuse(id.status());
  lock.lock();
  engine_id_ = *id;
  const bool cancelled = cancelled_;
  lock.unlock();
  if (cancelled) door_->engine->Cancel(*id, CancelReason());
}

void GenerateStream::Refuse(const absl::Status& status) {
  door_->refused->Add(LogLevel::kWarning, request_id_,
                      absl::StrCat("refused: ", Shown(status), trace_note_));
  std::lock_guard lock(mutex_);
  End(status);
}

void GenerateStream::End(const absl::Status& status) {
  stage_ = Stage::kEnded;
  if (const std::optional<Refusal> reason = RefusalOf(status)) {
    context_->AddTrailingMetadata(kRefusalReasonKey, Name(*reason));
  }
  if (const std::optional<double> seconds = RetryAfterSeconds(status)) {
    context_->AddTrailingMetadata(kRetryAfterKey,
                                  absl::StrCat(std::llround(*seconds * 1000)));
  }
  Finish(ToGrpc(status));
}

// ---- The answer

void GenerateStream::OnEvent(StreamEvent event) {
  const absl::Status& status = event.status;
  // What a client ended itself is no complaint.
  if (!status.ok() && !absl::IsCancelled(status) &&
      !absl::IsDeadlineExceeded(status)) {
    door_->ended->Add(LogLevel::kWarning, request_id_,
                      absl::StrCat("ended: ", Shown(status), trace_note_));
  }
  if (door_->log_requests && event.done) {
    Log(LogLevel::kInfo, request_id_, EndLine(event) + trace_note_);
  }
  std::lock_guard lock(mutex_);
  waiting_.Add(std::move(event));
  if (!writing_) Flush();
}

void GenerateStream::OnWriteDone(bool /*ok*/) {
  // A broken stream takes no more messages, and OnCancel tells the engine; its
  // last event still comes.
  std::lock_guard lock(mutex_);
  writing_ = false;
  if (stage_ == Stage::kRuns) Flush();
}

void GenerateStream::Flush() {
  if (waiting_.empty()) return;
  const StreamEvent event = waiting_.Take();
  if (!event.status.ok()) return End(event.status);
  v1::GenerateResponse message;
  ToProto(event, &message);
  message.set_request_id(request_id_);
  sending_.Clear();  // the writer wants an empty one
  bool own_buffer = false;
  grpc::SerializationTraits<v1::GenerateResponse>::Serialize(message, &sending_,
                                                             &own_buffer);
  writing_ = true;
  write_began_ = door_->clock->Now();
  if (event.done) {
    stage_ = Stage::kEnded;
    StartWriteAndFinish(&sending_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    StartWrite(&sending_);
  }
}

// ---- Ends

absl::Status GenerateStream::CancelReason() const {
  if (context_->deadline() <= std::chrono::system_clock::now()) {
    return absl::DeadlineExceededError("the client's deadline has passed");
  }
  return absl::CancelledError("the client left");
}

void GenerateStream::OnCancel() {
  std::unique_lock lock(mutex_);
  cancelled_ = true;
  const std::optional<uint64_t> id = engine_id_;
  if (stage_ == Stage::kWaits || stage_ == Stage::kReads) End(CancelReason());
  lock.unlock();
  if (id) door_->engine->Cancel(*id, CancelReason());
}

void GenerateStream::GiveUpRead(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  if (stage_ != Stage::kReads) return;
  given_up_ = true;
  door_->refused->Add(LogLevel::kWarning, "",
                      absl::StrCat("refused: ", why.ToString()));
  End(why);
}

void GenerateStream::CheckTime(double now) {
  const double limit = door_->client_timeout_seconds;
  std::lock_guard lock(mutex_);
  if (self_ == nullptr) return;  // gRPC is done with it
  if ((stage_ == Stage::kWaits || stage_ == Stage::kReads) &&
      now - began_ > limit) {
    const std::string why =
        absl::StrCat("the request was not whole within ", limit, " s");
    door_->ended->Add(LogLevel::kWarning, "",
                      absl::StrCat("gave up on ", peer_, ": ", why));
    End(absl::DeadlineExceededError(why));
  } else if (writing_ && !cancelled_ && now - write_began_ > limit) {
    door_->ended->Add(
        LogLevel::kWarning, request_id_,
        absl::StrCat("gave up on ", peer_, ": it does not read its answer for ",
                     limit, " s"));
    cancelled_ = true;
    context_->TryCancel();  // OnCancel tells the engine
  }
}

void GenerateStream::OnDone() {
  door_->turns->Leave(peer_, this);
  on_done_(this);
  std::shared_ptr<GenerateStream> last;
  std::lock_guard lock(mutex_);
  last.swap(self_);  // destroyed after the lock is released
}

}  // namespace h2o
