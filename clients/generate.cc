// h2oserve generate: generates text in this process, without a server.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"
#include "api/result.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/embedded_flags.h"
#include "clients/input.h"
#include "clients/output.h"
#include "clients/progress_bar.h"
#include "clients/trace.h"
#include "flags/flags.h"

namespace h2o {
namespace {

struct GenerateFlags {
  EmbeddedFlags embedded;
  RequestFlags request;
  int max_sequences = 256;
  bool json = false;
  std::string trace;
};

// Prints results in input order: the first unfinished one while it is
// generated, those behind it once it is done.
class Printer {
 public:
  Printer(std::vector<Result>* results, bool json)
      : results_(*results), json_(json), done_(results->size()) {}

  void Add(int i, const StreamEvent& event) {
    results_[i].Add(event);
    done_[i] = event.done;
    if (!json_ && i == next_) Put(event.text);
    while (next_ < static_cast<int>(results_.size()) && done_[next_]) {
      Finish(results_[next_]);
      if (++next_ < static_cast<int>(results_.size()) && !json_) {
        Put(results_[next_].text);
      }
    }
  }

 private:
  static void Put(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  void Finish(const Result& result) const {
    Put(json_ ? ResultJson(result) + "\n" : "\n");
    if (!json_) std::fprintf(stderr, "%s\n", UsageLine(result).c_str());
  }

  std::vector<Result>& results_;
  const bool json_;
  std::vector<bool> done_;
  int next_ = 0;
};

// Checks every request before any runs; errors name the line of the file.
absl::Status CheckAll(const Engine& engine,
                      const std::vector<Request>& requests,
                      const std::vector<std::string>& places) {
  for (size_t i = 0; i < requests.size(); ++i) {
    H2O_RETURN_IF_ERROR(At(places[i], engine.Check(requests[i])));
  }
  return absl::OkStatus();
}

absl::Status RunGenerate(const GenerateFlags& flags) {
  std::vector<std::string> places;
  H2O_ASSIGN_OR_RETURN(std::vector<Request> requests,
                       RequestsOf(flags.request, RandomBits64(), &places));
  TraceFile trace;
  if (!flags.trace.empty()) {
    H2O_ASSIGN_OR_RETURN(trace, TraceFile::Create(flags.trace));
  }
  H2O_ASSIGN_OR_RETURN(EmbeddedOptions options, flags.embedded.Options());
  options.engine.max_sequences =
      std::min<int>(flags.max_sequences, static_cast<int>(requests.size()));
  options.engine.max_queue = static_cast<int>(requests.size());
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Embedded> embedded,
                       LoadEmbedded(options));
  for (Request& request : requests) request.trace = trace.is_open();
  H2O_RETURN_IF_ERROR(CheckAll(embedded->engine(), requests, places));

  std::vector<Result> results(requests.size());
  for (size_t i = 0; i < results.size(); ++i) {
    results[i].index = static_cast<int>(i);
  }
  Printer printer(&results, flags.json);
  const bool bar_shown = flags.json && requests.size() > 1;
  ProgressBar bar("generating");
  size_t done = 0;
  const auto on_event = [&](int i, const StreamEvent& event) {
    trace.Write(i, event.trace);
    printer.Add(i, event);
    done += event.done;
    if (bar_shown) bar.Set(static_cast<double>(done) / results.size());
  };
  H2O_RETURN_IF_ERROR(embedded->Run(std::move(requests), on_event));
  return trace.Close();
}

}  // namespace

void AddGenerateCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app->add_subcommand(
      "generate", "Generates text in this process, without a server");
  AddEmbeddedFlags(command, &flags->embedded);
  AddRequestFlags(command, &flags->request);
  command
      ->add_option("--max-sequences", flags->max_sequences,
                   "Most sequences that run at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json,
                    "Print one JSON object for each prompt, in input order");
  command->add_option(
      "--trace", flags->trace,
      "File for what every head keeps and evicts, as JSON lines");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(RunGenerate(*flags)); });
}

}  // namespace h2o
