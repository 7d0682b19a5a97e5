// `h2oserve batch`: asks a server the requests of a file, as OpenAI's batches
// have them, and writes the answers to another.  Interrupted, it goes on where
// it was.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "base/stop_signals.h"
#include "clients/batch_file.h"
#include "clients/batch_run.h"
#include "clients/blocked_signals.h"
#include "clients/commands.h"
#include "clients/progress_bar.h"
#include "clients/server_flags.h"
#include "clients/server_process.h"
#include "flags/access_flags.h"
#include "flags/exit_code.h"
#include "flags/flags.h"

namespace h2o {
namespace {

struct BatchFlags {
  std::string input, output, server, model;
  std::vector<std::string> serve_flags;
  int concurrency = 64;
  double timeout_seconds = 600;
  CredentialFlags credentials;
  bool json = false;
};

absl::StatusOr<HttpServerPlace> PlaceOf(const BatchFlags& flags,
                                        const std::string& url) {
  return HttpServerPlaceOf("--server", url, flags.credentials);
}

absl::Status CheckFlags(const BatchFlags& flags) {
  if (flags.server.empty() == flags.model.empty()) {
    return absl::InvalidArgumentError("give either --server or --model");
  }
  if (flags.model.empty() && !flags.serve_flags.empty()) {
    return absl::InvalidArgumentError(
        "flags of serve go with --model, not with --server");
  }
  if (flags.server.empty()) return absl::OkStatus();
  return PlaceOf(flags, flags.server).status();
}

void PrintSummary(const BatchRun& run, double seconds, bool json) {
  const nlohmann::ordered_json summary = {{"requests", run.total()},
                                          {"answered", run.answered()},
                                          {"failed", run.failed()},
                                          {"skipped", run.skipped()},
                                          {"seconds", seconds}};
  const std::string text =
      json ? summary.dump()
           : absl::StrCat(run.answered(), " answered, ", run.failed(),
                          " failed, ", run.skipped(), " were done before");
  std::printf("%s\n", text.c_str());
}

// Looks on until the run is over.
absl::Status Look(BatchRun* run, const BlockedSignals& signals, bool json) {
  std::optional<ProgressBar> bar;
  bar.emplace("batch");
  const SteadyClock clock;
  StopSignals stop_signals;
  const double begin = clock.Now();
  while (!run->Finished()) {
    const int64_t done = run->skipped() + run->answered() + run->failed();
    bar->Set(static_cast<double>(done) /
             static_cast<double>(std::max<int64_t>(1, run->total())));
    if (!signals.Taken()) continue;
    if (stop_signals.Take(clock.Now()) == StopSignals::Meaning::kAtOnce) {
      std::_Exit(kFault);
    }
    run->Stop(absl::CancelledError(
        "stopped by a signal; the same command goes on with the rest"));
  }
  bar.reset();
  const absl::Status status = run->Close();
  PrintSummary(*run, clock.Now() - begin, json);
  return status;
}

absl::Status Run(const BatchFlags& flags) {
  H2O_RETURN_IF_ERROR(CheckFlags(flags));
  const BlockedSignals signals;
  H2O_ASSIGN_OR_RETURN(BatchInput input, BatchInput::Open(flags.input));
  H2O_ASSIGN_OR_RETURN(BatchOutput output, BatchOutput::Open(flags.output));
  std::string server = flags.server;
  std::unique_ptr<ServerProcess> own;
  if (server.empty()) {
    std::vector<std::string> serve = {absl::StrCat("--model=", flags.model)};
    serve.insert(serve.end(), flags.serve_flags.begin(),
                 flags.serve_flags.end());
    H2O_ASSIGN_OR_RETURN(
        own, ServerProcess::Start(serve, [&] { return signals.Taken(); }));
    server = own->url();
  }
  H2O_ASSIGN_OR_RETURN(const HttpServerPlace place, PlaceOf(flags, server));
  BatchRun run({.server = place,
                .concurrency = flags.concurrency,
                .silence_seconds = flags.timeout_seconds},
               std::move(input), std::move(output));
  H2O_RETURN_IF_ERROR(run.Start());
  return Look(&run, signals, flags.json);
}

}  // namespace

void AddBatchCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<BatchFlags>();
  CLI::App* command = app->add_subcommand(
      "batch",
      "Asks the requests of a file in the format of OpenAI's batches; run "
      "again, it goes on where it was");
  command
      ->add_option("--input", flags->input,
                   "Requests, one JSON object a line: custom_id, method, url, "
                   "body")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--output", flags->output,
                   "Answers, one a line as they come; lines that are in it "
                   "already are not asked again")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--server", flags->server,
                   "Server to ask: http://HOST:PORT or https://HOST:PORT")
      ->type_name("URL");
  command
      ->add_option("--model", flags->model,
                   "Instead of --server: serve this model for as long as the "
                   "batch takes")
      ->type_name("DIR");
  command
      ->add_option("--concurrency", flags->concurrency,
                   "Requests at once, each on a connection of its own")
      ->check(Within(1, 4096, "a number of requests, 1 to 4096"))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--timeout", flags->timeout_seconds,
                   "A request fails if the server says nothing for so long")
      ->check(Within(1, 1e6, "a number of seconds, at least 1"))
      ->type_name("S")
      ->capture_default_str();
  AddCredentialFlags(command, kKeyHelp, &flags->credentials);
  command->add_flag("--json", flags->json,
                    "The summary as one object: {\"requests\", \"answered\", "
                    "\"failed\", \"skipped\", \"seconds\"}");
  command
      ->add_option("serve-flags", flags->serve_flags,
                   "Behind --: flags of serve for --model, such as --tp=2")
      ->type_name("FLAG");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
