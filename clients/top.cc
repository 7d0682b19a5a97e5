// `h2oserve top`: a live view of a server in a terminal.
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/server_address.h"
#include "clients/top_view.h"
#include "flags/flags.h"
#include "proto/channel.h"
#include "proto/grpc_log.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

constexpr auto kAnswerSeconds = std::chrono::seconds(10);
constexpr int kColumns = 200;  // where no terminal says

struct TopFlags {
  std::string server;
  std::string api_key;  // empty: none
  ClientTlsFlags tls;
  double interval_seconds = 1;
  bool once = false;
  bool json = false;
};

int Columns() {
  winsize size = {};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;
  return known && size.ws_col > 0 ? size.ws_col : kColumns;
}

absl::StatusOr<std::string> StatusOf(v1::Admin::Stub* server,
                                     const std::string& key) {
  v1::Status status;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kAnswerSeconds);
  if (!key.empty()) {
    context.AddMetadata("authorization", absl::StrCat("Bearer ", key));
  }
  H2O_RETURN_IF_ERROR(FromGrpc(server->GetStatus(&context, {}, &status)));
  return status.json();
}

// Writes a view in the place of the one before.
void Show(const std::string& view, bool on_terminal) {
  constexpr char kHome[] = "\x1b[H", kClearBehind[] = "\x1b[J";
  const std::string text =
      on_terminal ? absl::StrCat(kHome, kClearBehind, view) : view;
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Waits for up to `seconds`; returns whether the user wants to stop.
bool WaitOrStop(double seconds) {
  sigset_t stops;
  sigemptyset(&stops);
  sigaddset(&stops, SIGINT);
  sigaddset(&stops, SIGTERM);
  const timespec time = {.tv_sec = static_cast<time_t>(seconds),
                         .tv_nsec = static_cast<long>(
                             (seconds - static_cast<long>(seconds)) * 1e9)};
  return sigtimedwait(&stops, nullptr, &time) > 0;
}

absl::Status Watch(const TopFlags& flags, v1::Admin::Stub* server) {
  const SteadyClock clock;
  const bool on_terminal = isatty(STDOUT_FILENO) != 0;
  std::optional<TopSample> before;
  do {
    H2O_ASSIGN_OR_RETURN(std::string status, StatusOf(server, flags.api_key));
    TopSample now = {std::move(status), clock.Now()};
    if (flags.json) {
      std::printf("%s\n", now.status.c_str());
      std::fflush(stdout);
    } else {
      H2O_ASSIGN_OR_RETURN(const std::string view,
                           TopView(now, before, Columns()));
      Show(view, on_terminal && !flags.once);
    }
    before = std::move(now);
  } while (!flags.once && !WaitOrStop(flags.interval_seconds));
  return absl::OkStatus();
}

absl::Status Run(const TopFlags& flags) {
  H2O_RETURN_IF_ERROR(CheckServer(flags.server));
  H2O_RETURN_IF_ERROR(CheckKey(flags.api_key));
  H2O_ASSIGN_OR_RETURN(const TlsMaterial tls, MaterialOf(flags.tls));
  sigset_t stops;  // for WaitOrStop, in every thread
  sigemptyset(&stops);
  sigaddset(&stops, SIGINT);
  sigaddset(&stops, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stops, nullptr);
  LogForGrpc();
  const auto server =
      v1::Admin::NewStub(ClientChannel(flags.server, NoProxy(), tls));
  const absl::Status status = Watch(flags, server.get());
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("server ", flags.server, ": ",
                                                  status.ToString()));
}

}  // namespace

void AddTopCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<TopFlags>();
  CLI::App* command = app->add_subcommand(
      "top", "Shows groups, ranks, KV pages and tenants of a server, live");
  command->add_option("--server", flags->server, "Address of the server")
      ->required()
      ->type_name("HOST:PORT");
  command
      ->add_option("--interval", flags->interval_seconds,
                   "Time between two looks")
      ->capture_default_str()
      ->type_name("S")
      ->check(Within(0.1, 3600, "a number of seconds from 0.1 to 3600"));
  command->add_flag("--once", flags->once, "Look once");
  command->add_flag("--json", flags->json,
                    "Print the status as JSON, a line each time");
  command
      ->add_option("--api-key", flags->api_key,
                   "Key with `admin`, where the server has keys; better in the "
                   "variable, which other users of this host cannot see")
      ->envname("H2OSERVE_API_KEY")
      ->type_name("KEY");
  AddClientTlsFlags(command, &flags->tls);
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
