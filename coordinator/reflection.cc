// Answers what clients ask about the services of inference.proto.
#include "coordinator/reflection.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

#include <set>
#include <utility>

#include "absl/status/status.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"
#include "proto/reflection.pb.h"

namespace h2o {
namespace {

namespace wire = h2oserve::reflection;
using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;

constexpr std::string_view kMethods[] = {
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};

const FileDescriptor& PublicFile() {
  return *h2oserve::v1::GenerateRequest::descriptor()->file();
}

// `file` and all that it imports.
void AddFile(const FileDescriptor& file, std::set<std::string>* added,
             wire::Files* files) {
  if (!added->insert(file.name()).second) return;
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  files->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) {
    AddFile(*file.dependency(i), added, files);
  }
}

void ListServices(wire::Services* services) {
  services->add_service()->set_name("grpc.health.v1.Health");
  services->add_service()->set_name("grpc.reflection.v1.ServerReflection");
  services->add_service()->set_name("grpc.reflection.v1alpha.ServerReflection");
  for (int i = 0; i < PublicFile().service_count(); ++i) {
    services->add_service()->set_name(PublicFile().service(i)->full_name());
  }
}

wire::Response AnswerTo(const wire::Request& request) {
  wire::Response response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  const DescriptorPool& pool = *PublicFile().pool();
  const FileDescriptor* file = nullptr;
  switch (request.asks_for_case()) {
    case wire::Request::kListServices:
      ListServices(response.mutable_services());
      return response;
    case wire::Request::kFileByFilename:
      file = pool.FindFileByName(request.file_by_filename());
      break;
    case wire::Request::kFileContainingSymbol:
      file = pool.FindFileContainingSymbol(request.file_containing_symbol());
      break;
    case wire::Request::ASKS_FOR_NOT_SET:
      break;
  }
  // Workers' messages are for workers.
  if (file != nullptr && file->package() != "h2oserve.worker") {
    std::set<std::string> added;
    AddFile(*file, &added, response.mutable_files());
  } else {
    response.mutable_error()->set_error_code(grpc::StatusCode::NOT_FOUND);
    response.mutable_error()->set_error_message(
        "there is nothing of this name");
  }
  return response;
}

// Threads  gRPC's, one reaction at a time.
class ReflectionCall final : public grpc::ServerGenericBidiReactor {
 public:
  explicit ReflectionCall(std::function<void(int64_t)> on_message)
      : on_message_(std::move(on_message)) {
    StartRead(&received_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    if (on_message_) on_message_(static_cast<int64_t>(received_.Length()));
    wire::Request request;
    const grpc::Status parsed =
        grpc::SerializationTraits<wire::Request>::Deserialize(&received_,
                                                              &request);
    if (!parsed.ok()) {
      return Finish(ToGrpc(absl::InvalidArgumentError(
          "this is no request of the reflection protocol")));
    }
    bool own_buffer = false;
    sending_.Clear();
    grpc::SerializationTraits<wire::Response>::Serialize(
        AnswerTo(request), &sending_, &own_buffer);
    StartWrite(&sending_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    received_.Clear();
    StartRead(&received_);
  }
  void OnDone() override { delete this; }

 private:
  const std::function<void(int64_t)> on_message_;
  grpc::ByteBuffer received_, sending_;
};

}  // namespace

bool IsReflection(std::string_view method) {
  return method == kMethods[0] || method == kMethods[1];
}

grpc::ServerGenericBidiReactor* NewReflectionCall(
    std::function<void(int64_t)> on_message) {
  return new ReflectionCall(std::move(on_message));
}

}  // namespace h2o
