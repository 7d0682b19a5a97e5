// The gRPC service behind InferenceService: one reactor for each stream.
#include "coordinator/inference_service.h"

#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "api/event_merger.h"
#include "base/entropy.h"
#include "base/limited_log.h"
#include "base/status_macros.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"
#include "proto/request_proto.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

constexpr int kMaxRequestId = 128;
constexpr int kMaxRequestBytes = 4 << 20;

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

absl::StatusOr<Request> RequestOf(const v1::GenerateRequest& message,
                                  const KvPolicyRequest& server_default) {
  const size_t bytes = message.ByteSizeLong();
  if (bytes > kMaxRequestBytes) {
    return Bad("the request has ", bytes, " bytes; at most ", kMaxRequestBytes,
               " are allowed");
  }
  H2O_ASSIGN_OR_RETURN(Request request, FromProto(message, server_default));
  if (!request.has_seed) request.sampling.seed = RandomBits64();
  return request;
}

// Requests that are refused, and streams that end before they are finished, as
// lines of the log.
class Complaints {
 public:
  void Refused(const std::string& request_id, const absl::Status& why) {
    refused_.Add(LogLevel::kWarning, request_id,
                 absl::StrCat("refused: ", why.ToString()));
  }
  // What a client ended itself is no complaint.
  void Ended(const std::string& request_id, const absl::Status& why) {
    if (absl::IsCancelled(why) || absl::IsDeadlineExceeded(why)) return;
    ended_.Add(LogLevel::kWarning, request_id,
               absl::StrCat("ended: ", why.ToString()));
  }

 private:
  const SteadyClock clock_;
  LimitedLog refused_{&clock_};
  LimitedLog ended_{&clock_};
};

// One Generate call: events in, messages out.  Lives until both gRPC and the
// engine are done with it.
//
// Threads  events come from the engine's threads, reactions from gRPC's.
class GenerateStream final
    : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(
      grpc::CallbackServerContext* context, absl::StatusOr<std::string> id,
      absl::StatusOr<Request> request, Engine* engine, Complaints* complaints) {
    auto stream = std::make_shared<GenerateStream>(context, engine, complaints);
    stream->self_ = stream;
    if (id.ok()) stream->request_id_ = *id;
    if (!id.ok() || !request.ok()) {
      stream->Refuse(id.ok() ? request.status() : id.status());
    } else {
      stream->Submit(*std::move(request));
    }
    return stream.get();
  }

  GenerateStream(grpc::CallbackServerContext* context, Engine* engine,
                 Complaints* complaints)
      : context_(context), engine_(engine), complaints_(complaints) {}

  void OnWriteDone(bool /*ok*/) override {
    // A broken stream takes no more messages, and OnCancel tells the engine;
    // its last event still comes.
    std::lock_guard lock(mutex_);
    writing_ = false;
    Flush();
  }
  void OnCancel() override {
    std::unique_lock lock(mutex_);
    cancelled_ = true;
    const std::optional<uint64_t> id = engine_id_;
    lock.unlock();
    if (id) engine_->Cancel(*id, CancelReason());
  }
  void OnDone() override {
    std::shared_ptr<GenerateStream> last;
    std::lock_guard lock(mutex_);
    last.swap(self_);  // destroyed after the lock is released
  }

 private:
  void Submit(Request request) {
    absl::StatusOr<uint64_t> id = engine_->Submit(
        std::move(request), [stream = self_](StreamEvent event) {
          stream->OnEvent(std::move(event));
        });
    if (!id.ok()) return Refuse(id.status());
    std::unique_lock lock(mutex_);
    engine_id_ = *id;
    const bool cancelled = cancelled_;
    lock.unlock();
    if (cancelled) engine_->Cancel(*id, CancelReason());
  }

  void Refuse(const absl::Status& why) {
    complaints_->Refused(request_id_, why);
    Finish(ToGrpc(why));
  }

  absl::Status CancelReason() const {
    if (context_->deadline() <= std::chrono::system_clock::now()) {
      return absl::DeadlineExceededError("the client's deadline has passed");
    }
    return absl::CancelledError("the client left");
  }

  void OnEvent(StreamEvent event) {
    std::lock_guard lock(mutex_);
    waiting_.Add(std::move(event));
    if (!writing_) Flush();
  }

  // Sends what has gathered.  REQUIRES: mutex_ is held, no write is in flight.
  void Flush() {
    if (waiting_.empty()) return;
    const StreamEvent event = waiting_.Take();
    if (!event.status.ok()) {
      complaints_->Ended(request_id_, event.status);
      return Finish(ToGrpc(event.status));
    }
    sending_.Clear();
    ToProto(event, &sending_);
    sending_.set_request_id(request_id_);
    if (event.done) {
      StartWriteAndFinish(&sending_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      writing_ = true;
      StartWrite(&sending_);
    }
  }

  grpc::CallbackServerContext* const context_;  // valid until OnDone
  Engine* const engine_;
  Complaints* const complaints_;
  std::string request_id_;

  std::mutex mutex_;
  std::shared_ptr<GenerateStream> self_;  // until OnDone
  std::optional<uint64_t> engine_id_;     // once Submit has returned
  bool cancelled_ = false;
  EventMerger waiting_;           // gathers while a message is on its way
  v1::GenerateResponse sending_;  // on its way while writing_
  bool writing_ = false;
};

}  // namespace

class InferenceService::Impl final : public v1::Inference::CallbackService {
 public:
  Impl(const InferenceServiceOptions& options, Engine* engine)
      : options_(options), engine_(engine) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context,
      const v1::GenerateRequest* message) override {
    return GenerateStream::Start(
        context, RequestIdOf(*message),
        RequestOf(*message, options_.default_kv_policy), engine_, &complaints_);
  }

  grpc::ServerUnaryReactor* GetModelInfo(
      grpc::CallbackServerContext* context,
      const v1::GetModelInfoRequest* /*message*/,
      v1::ModelInfo* info) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const absl::StatusOr<GroupInfo> group = engine_->group_info();
    if (!group.ok()) {
      absl::Status status = group.status();
      if (options_.progress) {
        status = absl::Status(
            status.code(),
            absl::StrCat(status.message(), " (", options_.progress(), ")"));
      }
      reactor->Finish(ToGrpc(status));
      return reactor;
    }
    const ModelConfig& config = options_.config;
    info->set_name(config.name);
    info->set_num_layers(config.num_layers);
    info->set_num_heads(config.qkv.heads);
    info->set_head_dim(config.qkv.head_dim);
    info->set_vocab_size(config.vocab_size);
    info->set_max_positions(config.max_positions);
    info->set_tensor_parallel_size(group->tp());
    info->set_num_groups(engine_->num_groups());
    info->set_kv_pool_bytes(group->memory().kv_pool);
    info->set_default_kv_policy(
        std::string(Name(options_.default_kv_policy.name)));
    info->set_version(options_.version);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const InferenceServiceOptions options_;
  Engine* const engine_;
  Complaints complaints_;
};

InferenceService::InferenceService(const InferenceServiceOptions& options,
                                   Engine* engine)
    : impl_(std::make_unique<Impl>(options, engine)) {}
InferenceService::~InferenceService() = default;
grpc::Service* InferenceService::service() { return impl_.get(); }

}  // namespace h2o
