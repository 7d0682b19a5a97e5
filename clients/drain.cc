// `h2oserve drain`: lets the workers of a group finish and leave.
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
#include "clients/server_flags.h"
#include "flags/flags.h"

namespace h2o {
namespace {

struct DrainFlags {
  ServerFlags server;
  int group = 0;
  bool json = false;
};

constexpr auto kLook = std::chrono::milliseconds(100);

absl::StatusOr<bool> Drains(int group, const Client& client) {
  const Expected<std::string> status = client.GetStatus();
  if (!status) return StatusOf(status.error());
  const auto json = nlohmann::json::parse(*status, nullptr, false);
  for (const auto& known : json.value("groups", nlohmann::json::array())) {
    if (known.value("group", -1) == group) {
      return known.value("draining", false);
    }
  }
  return false;
}

absl::Status DrainGroup(int group, const Client& client) {
  H2O_RETURN_IF_ERROR(StatusOf(client.Drain(group)));
  while (true) {
    H2O_ASSIGN_OR_RETURN(const bool drains, Drains(group, client));
    if (!drains) return absl::OkStatus();
    std::this_thread::sleep_for(kLook);
  }
}

absl::Status Run(const DrainFlags& flags) {
  H2O_ASSIGN_OR_RETURN(const Client client, ConnectTo(flags.server));
  H2O_RETURN_IF_ERROR(
      NamingServer(flags.server.server, DrainGroup(flags.group, client)));
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
      ->check(Within(0, 1e6, "a whole number, 0 to 1000000"));
  AddServerFlags(command, kAdminKeyHelp, &flags->server);
  command->add_flag("--json", flags->json, "Print the outcome as JSON");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
