// Connects to the Admin service, with key and certificates.
#include "clients/admin.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/server_address.h"
#include "proto/channel.h"
#include "proto/grpc_log.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

constexpr auto kAnswerSeconds = std::chrono::seconds(10);

class RemoteAdmin final : public Admin {
 public:
  RemoteAdmin(const AdminFlags& flags, const TlsMaterial& tls)
      : key_(flags.api_key),
        stub_(v1::Admin::NewStub(ClientChannel(flags.server, NoProxy(), tls))) {
  }

  absl::Status Drain(int group) override {
    v1::DrainRequest request;
    request.set_group(group);
    v1::DrainResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    return FromGrpc(stub_->Drain(&context, request, &response));
  }

  absl::StatusOr<std::string> Status() override {
    v1::Status status;
    grpc::ClientContext context;
    Prepare(&context);
    H2O_RETURN_IF_ERROR(FromGrpc(stub_->GetStatus(&context, {}, &status)));
    return status.json();
  }

 private:
  void Prepare(grpc::ClientContext* context) const {
    context->set_deadline(std::chrono::system_clock::now() + kAnswerSeconds);
    if (key_.empty()) return;
    context->AddMetadata("authorization", absl::StrCat("Bearer ", key_));
  }

  const std::string key_;
  const std::unique_ptr<v1::Admin::Stub> stub_;
};

}  // namespace

void AddAdminFlags(CLI::App* app, AdminFlags* flags) {
  app->add_option("--server", flags->server, "Address of the server")
      ->required()
      ->type_name("HOST:PORT");
  app->add_option("--api-key", flags->api_key,
                  "Key with `admin`, where the server has keys; better in the "
                  "variable, which other users of this host cannot see")
      ->envname("H2OSERVE_API_KEY")
      ->type_name("KEY");
  AddClientTlsFlags(app, &flags->tls);
}

absl::StatusOr<std::unique_ptr<Admin>> Admin::Connect(const AdminFlags& flags) {
  H2O_RETURN_IF_ERROR(CheckServer(flags.server));
  H2O_RETURN_IF_ERROR(CheckKey(flags.api_key));
  H2O_ASSIGN_OR_RETURN(const TlsMaterial tls, MaterialOf(flags.tls));
  LogForGrpc();
  return std::make_unique<RemoteAdmin>(flags, tls);
}

}  // namespace h2o
