// `h2oserve drain`: lets the workers of a group finish and leave.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/server_address.h"
#include "flags/flags.h"
#include "proto/channel.h"
#include "proto/grpc_log.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

struct DrainFlags {
  std::string server;
  std::string api_key;  // empty: none
  ClientTlsFlags tls;
  int group = 0;
  bool json = false;
};

constexpr auto kAnswerSeconds = std::chrono::seconds(10);
constexpr auto kLook = std::chrono::milliseconds(100);

// The Admin service of a server, as the owner of a key.
class Admin {
 public:
  Admin(const DrainFlags& flags, const TlsMaterial& tls)
      : key_(flags.api_key),
        stub_(v1::Admin::NewStub(ClientChannel(flags.server, NoProxy(), tls))) {
  }

  absl::Status Drain(int group) {
    v1::DrainRequest request;
    request.set_group(group);
    v1::DrainResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    return FromGrpc(stub_->Drain(&context, request, &response));
  }

  // Whether the group still drains.
  absl::StatusOr<bool> Drains(int group) {
    v1::Status status;
    grpc::ClientContext context;
    Prepare(&context);
    H2O_RETURN_IF_ERROR(FromGrpc(stub_->GetStatus(&context, {}, &status)));
    const auto json = nlohmann::json::parse(status.json(), nullptr, false);
    for (const auto& known : json.value("groups", nlohmann::json::array())) {
      if (known.value("group", -1) == group) {
        return known.value("draining", false);
      }
    }
    return false;
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

absl::Status DrainGroup(int group, Admin* admin) {
  H2O_RETURN_IF_ERROR(admin->Drain(group));
  while (true) {
    H2O_ASSIGN_OR_RETURN(const bool drains, admin->Drains(group));
    if (!drains) return absl::OkStatus();
    std::this_thread::sleep_for(kLook);
  }
}

absl::Status Run(const DrainFlags& flags) {
  H2O_RETURN_IF_ERROR(CheckServer(flags.server));
  H2O_RETURN_IF_ERROR(CheckKey(flags.api_key));
  H2O_ASSIGN_OR_RETURN(const TlsMaterial tls, MaterialOf(flags.tls));
  LogForGrpc();
  Admin admin(flags, tls);
  const absl::Status status = DrainGroup(flags.group, &admin);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("server ", flags.server,
                                                    ": ", status.ToString()));
  }
  if (flags.json) {
    std::printf("{\"group\":%d,\"drained\":true}\n", flags.group);
  } else {
    std::printf("group %d has drained\n", flags.group);
  }
  return absl::OkStatus();
}

}  // namespace

void AddDrainCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<DrainFlags>();
  CLI::App* command = app->add_subcommand(
      "drain", "Lets the requests of a group end or move, and its workers go");
  command->add_option("GROUP", flags->group, "Number of the group")
      ->required()
      ->check(CLI::NonNegativeNumber);
  command->add_option("--server", flags->server, "Address of the server")
      ->required()
      ->type_name("HOST:PORT");
  command
      ->add_option("--api-key", flags->api_key,
                   "Key with `admin`, where the server has keys; better in the "
                   "variable, which other users of this host cannot see")
      ->envname("H2OSERVE_API_KEY")
      ->type_name("KEY");
  AddClientTlsFlags(command, &flags->tls);
  command->add_flag("--json", flags->json, "Print the outcome as JSON");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
