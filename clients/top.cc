// `h2oserve top`: a live view of a server in a terminal.
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/server_flags.h"
#include "clients/top_view.h"
#include "flags/flags.h"

namespace h2o {
namespace {

constexpr int kColumns = 200;  // where no terminal says

struct TopFlags {
  ServerFlags server;
  double interval_seconds = 1;
  bool once = false;
  bool json = false;
};

int Columns() {
  winsize size = {};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;
  return known && size.ws_col > 0 ? size.ws_col : kColumns;
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

absl::Status Watch(const TopFlags& flags, const Client& client) {
  const SteadyClock clock;
  const bool on_terminal = isatty(STDOUT_FILENO) != 0;
  std::optional<TopSample> before;
  do {
    Expected<std::string> status = client.GetStatus();
    if (!status) return StatusOf(status.error());
    TopSample now = {*std::move(status), clock.Now()};
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
  sigset_t stops;  // for WaitOrStop, in every thread
  sigemptyset(&stops);
  sigaddset(&stops, SIGINT);
  sigaddset(&stops, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stops, nullptr);
  H2O_ASSIGN_OR_RETURN(const Client client, ConnectTo(flags.server));
  return NamingServer(flags.server.server, Watch(flags, client));
}

}  // namespace

void AddTopCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<TopFlags>();
  CLI::App* command = app->add_subcommand(
      "top", "Shows groups, ranks, KV pages and tenants of a server, live");
  AddServerFlags(command, kAdminKeyHelp, &flags->server);
  command
      ->add_option("--interval", flags->interval_seconds,
                   "Time between two looks")
      ->capture_default_str()
      ->type_name("S")
      ->check(Within(0.1, 3600, "a number of seconds from 0.1 to 3600"));
  command->add_flag("--once", flags->once, "Look once");
  command->add_flag("--json", flags->json,
                    "Print the status as JSON, a line each time");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
