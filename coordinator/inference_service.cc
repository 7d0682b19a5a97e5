// The gRPC service behind InferenceService: Generate as a generic method, whose
// calls are known from their headers on, the others as gRPC has them.
#include "coordinator/inference_service.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_callback.h>

#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cut_text.h"
#include "base/status_macros.h"
#include "coordinator/generate_stream.h"
#include "coordinator/grpc_visitor.h"
#include "coordinator/peer_address.h"
#include "coordinator/reflection.h"
#include "coordinator/request_spec.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"
#include "proto/request_proto.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

constexpr char kGenerate[] = "/h2oserve.v1.Inference/Generate";

// All methods but Generate.
using OtherMethods = v1::Inference::WithGenericMethod_Generate<
    v1::Inference::WithCallbackMethod_GetModelInfo<
        v1::Inference::WithCallbackMethod_CheckAdmission<
            v1::Inference::WithCallbackMethod_Tokenize<
                v1::Inference::WithCallbackMethod_Detokenize<
                    v1::Inference::Service>>>>>;

// Ends a call at once.
class RefusedCall final : public grpc::ServerGenericBidiReactor {
 public:
  explicit RefusedCall(const absl::Status& why) { Finish(ToGrpc(why)); }
  void OnDone() override { delete this; }
};

}  // namespace

class InferenceService::Impl final : public OtherMethods,
                                     public grpc::CallbackGenericService {
 public:
  Impl(const InferenceServiceOptions& options, Engine* engine,
       const Clock* clock)
      : options_(options),
        engine_(engine),
        turns_(options.on_read, options.max_unread),
        refused_(clock),
        ended_(clock),
        door_{.default_kv_policy = options.default_kv_policy,
              .max_request_bytes = options.max_request_bytes,
              .most_request_bytes =
                  MostRequestBytes(options.config, options.tokenizer),
              .max_positions = options.config.max_positions,
              .client_timeout_seconds = options.client_timeout_seconds,
              .log_requests = options.log_requests,
              .on_message = options.on_message,
              .on_lost = options.on_lost,
              .engine = engine,
              .clock = clock,
              .turns = &turns_,
              .refused = &refused_,
              .ended = &ended_} {}

  void AddTo(grpc::ServerBuilder* builder) {
    builder->RegisterService(this);
    builder->RegisterCallbackGenericService(this);
  }

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    if (options_.reflection && IsReflection(context->method())) {
      return Reflect(context);
    }
    if (context->method() != kGenerate) {
      return new RefusedCall(NoMethod(*context));
    }
    auto stream = std::make_shared<GenerateStream>(
        context, &door_, Admit(Right::kModel, *context, kGenerate),
        [this](GenerateStream* done) { Remove(done); });
    {
      std::lock_guard lock(mutex_);
      streams_.emplace(stream.get(), stream);
    }
    GenerateStream* const reactor = stream.get();
    reactor->Start(std::move(stream));
    return reactor;
  }

  void GiveUpReads(const std::string& peer) {
    const absl::Status why = absl::ResourceExhaustedError(
        absl::StrCat("the request is larger than ", options_.max_request_bytes,
                     " bytes, or one beside it on this connection is"));
    for (const auto& stream : Streams()) {
      if (KeyOfPeer(stream->peer()) == peer) stream->GiveUpRead(why);
    }
  }

  void Tick() {
    const double now = door_.clock->Now();
    if (now - ticked_ < kTickSeconds) return;
    ticked_ = now;
    for (const auto& stream : Streams()) stream->CheckTime(now);
  }

  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* message,
                                         v1::ModelInfo* info) override {
    Hear(*context, *message);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (const auto tenant = Admit(Right::kKey, *context, "GetModelInfo");
        !tenant.ok()) {
      reactor->Finish(ToGrpc(tenant.status()));
      return reactor;
    }
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
    info->set_num_kv_heads(config.qkv.kv_heads);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* CheckAdmission(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* message,
      v1::AdmissionAnswer* answer) override {
    Hear(*context, *message);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(AnswerTo(*message, *context, answer)));
    return reactor;
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* message,
                                     v1::TokenizeResponse* answer) override {
    Hear(*context, *message);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (const auto tenant = Admit(Right::kKey, *context, "Tokenize");
        !tenant.ok()) {
      reactor->Finish(ToGrpc(tenant.status()));
      return reactor;
    }
    engine_->Encode(
        message->text(),
        !message->has_add_special_tokens() || message->add_special_tokens(),
        [reactor, answer](const absl::StatusOr<Request>& encoded) {
          if (encoded.ok()) {
            answer->mutable_ids()->Add(encoded->tokens.begin(),
                                       encoded->tokens.end());
          }
          reactor->Finish(ToGrpc(encoded.status()));
        });
    return reactor;
  }

  grpc::ServerUnaryReactor* Detokenize(
      grpc::CallbackServerContext* context,
      const v1::DetokenizeRequest* message,
      v1::DetokenizeResponse* answer) override {
    Hear(*context, *message);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(TextOf(*message, *context, answer)));
    return reactor;
  }

 private:
  static constexpr double kTickSeconds = 0.25;

  // A message has come over the connection of `context`.
  void Hear(const grpc::ServerContextBase& context,
            const google::protobuf::Message& message) const {
    if (!options_.on_message) return;
    options_.on_message(context.peer(),
                        static_cast<int64_t>(message.ByteSizeLong()));
  }

  // Every method asks here first; whose call it is.
  absl::StatusOr<TenantRow> Admit(Right right,
                                  const grpc::ServerContextBase& context,
                                  std::string_view method) {
    if (options_.keeper == nullptr) return TenantRow();
    return options_.keeper->Admit(
        right,
        VisitorOf(context, method, options_.keeper->checks_certificates()));
  }

  grpc::ServerGenericBidiReactor* Reflect(
      grpc::GenericCallbackServerContext* context) {
    const auto tenant = Admit(Right::kKey, *context, "reflection");
    if (!tenant.ok()) return new RefusedCall(tenant.status());
    return NewReflectionCall(
        [heard = options_.on_message, peer = context->peer()](int64_t bytes) {
          if (heard) heard(peer, bytes);
        });
  }

  absl::Status NoMethod(const grpc::GenericCallbackServerContext& context) {
    const std::string& method = context.method();
    if (const auto tenant = Admit(Right::kKey, context, method); !tenant.ok()) {
      return tenant.status();
    }
    return absl::UnimplementedError(
        absl::StrCat("there is no method ", CutText(method)));
  }

  absl::Status AnswerTo(const v1::GenerateRequest& message,
                        const grpc::ServerContextBase& context,
                        v1::AdmissionAnswer* answer) {
    H2O_ASSIGN_OR_RETURN(const TenantRow tenant,
                         Admit(Right::kModel, context, "CheckAdmission"));
    H2O_ASSIGN_OR_RETURN(Request request,
                         FromProto(message, options_.default_kv_policy));
    request.tenant = tenant;
    H2O_ASSIGN_OR_RETURN(const AdmissionAnswer found,
                         engine_->CheckAdmission(request));
    ToProto(found, answer);
    return absl::OkStatus();
  }

  absl::Status TextOf(const v1::DetokenizeRequest& message,
                      const grpc::ServerContextBase& context,
                      v1::DetokenizeResponse* answer) {
    H2O_RETURN_IF_ERROR(Admit(Right::kKey, context, "Detokenize").status());
    if (options_.tokenizer == nullptr) {
      return absl::FailedPreconditionError("the model has no tokenizer");
    }
    const int vocab_size = options_.config.vocab_size;
    for (const int32_t id : message.ids()) {
      if (id >= 0 && id < vocab_size) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", id, " is not in the vocabulary, 0 to ", vocab_size - 1));
    }
    answer->set_text(options_.tokenizer->Decode(
        absl::MakeConstSpan(message.ids().data(), message.ids_size()),
        /*skip_special_tokens=*/false));
    return absl::OkStatus();
  }

  std::vector<std::shared_ptr<GenerateStream>> Streams() {
    std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<GenerateStream>> streams;
    for (const auto& [stream, owner] : streams_) streams.push_back(owner);
    return streams;
  }

  void Remove(GenerateStream* done) {
    std::shared_ptr<GenerateStream> last;  // destroyed without the lock
    std::lock_guard lock(mutex_);
    const auto it = streams_.find(done);
    last = std::move(it->second);
    streams_.erase(it);
  }

  const InferenceServiceOptions options_;
  Engine* const engine_;
  ReadTurns turns_;
  LimitedLog refused_, ended_;
  const GenerateDoor door_;

  double ticked_ = 0;  // of the thread that calls Tick

  std::mutex mutex_;  // guards what follows
  std::unordered_map<GenerateStream*, std::shared_ptr<GenerateStream>> streams_;
};

InferenceService::InferenceService(const InferenceServiceOptions& options,
                                   Engine* engine, const Clock* clock)
    : impl_(std::make_unique<Impl>(options, engine, clock)) {}
InferenceService::~InferenceService() = default;
void InferenceService::AddTo(grpc::ServerBuilder* builder) {
  impl_->AddTo(builder);
}
void InferenceService::GiveUpReads(const std::string& peer) {
  impl_->GiveUpReads(peer);
}
void InferenceService::Tick() { impl_->Tick(); }

}  // namespace h2o
