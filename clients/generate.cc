// h2oserve generate: generates text in this process, without a server.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/check_request.h"
#include "base/entropy.h"
#include "base/status_macros.h"
#include "clients/answers.h"
#include "clients/commands.h"
#include "clients/embedded_flags.h"
#include "clients/input.h"
#include "clients/trace.h"
#include "flags/flags.h"

namespace h2o {
namespace {

struct GenerateFlags {
  EmbeddedFlags embedded;
  RequestFlags request;
  int n = 1;
  int max_sequences = 256;
  OutputFlags output;
  std::string trace;
};

// Checks every request before any runs; errors name the line of the file.
absl::Status CheckAll(const Engine& engine,
                      const std::vector<Prompt>& prompts) {
  for (const Prompt& prompt : prompts) {
    H2O_RETURN_IF_ERROR(At(prompt.place, engine.Check(prompt.request)));
  }
  return absl::OkStatus();
}

// What each answer answers: every prompt as often as it has choices.
std::vector<Prompt> PromptsOfAnswers(const std::vector<Prompt>& prompts) {
  std::vector<Prompt> of_answers;
  for (const Prompt& prompt : prompts) {
    of_answers.insert(of_answers.end(), prompt.request.n, prompt);
  }
  return of_answers;
}

// Asks the prompts that lack answers, and prints what comes.
void AskAll(const std::vector<Prompt>& prompts, Embedded* embedded,
            TraceFile* trace, Answers* answers) {
  std::vector<Request> requests;
  std::vector<size_t> first_answers;
  size_t next = 0;
  for (const Prompt& prompt : prompts) {
    const size_t first = next;
    next += prompt.request.n;
    bool all = true;
    for (size_t i = first; i < next; ++i) all &= answers->Has(i);
    if (all) continue;
    Request& request = requests.emplace_back(prompt.request);
    request.trace = trace->is_open();
    first_answers.push_back(first);
  }
  const absl::Status status =
      embedded->Run(std::move(requests), [&](int r, const StreamEvent& event) {
        const size_t i = first_answers[r] + event.choice;
        if (answers->Has(i)) return;
        trace->Write(static_cast<int>(i), event.trace);
        answers->Add(i, event);
        if (event.done) answers->Close(i, event.status);
        answers->Print();
      });
  answers->CloseRest(status);  // of a lost rank: they were not asked
  answers->Print();
}

// What is left to say if the model cannot be loaded: with --json each prompt
// has one object on standard output, also where the checkpoint is broken.
absl::Status AnswerNone(const GenerateFlags& flags,
                        const std::vector<Prompt>& prompts,
                        const absl::Status& status) {
  const OutputFlags& output = flags.output;
  if (output.json && output.output.empty() && absl::IsDataLoss(status)) {
    H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Answers> answers,
                         Answers::Create(output, prompts, "generating"));
    answers->CloseRest(status);
    answers->Print();
  }
  return status;
}

absl::Status RunGenerate(const GenerateFlags& flags) {
  H2O_ASSIGN_OR_RETURN(std::vector<Prompt> prompts,
                       PromptsOf(flags.request, RandomBits64()));
  for (Prompt& prompt : prompts) prompt.request.n = flags.n;
  const std::vector<Prompt> of_answers = PromptsOfAnswers(prompts);
  TraceFile trace;
  if (!flags.trace.empty()) {
    H2O_ASSIGN_OR_RETURN(trace, TraceFile::Create(flags.trace));
  }
  H2O_ASSIGN_OR_RETURN(EmbeddedOptions options, flags.embedded.Options());
  options.engine.max_sequences =
      std::min<int>(flags.max_sequences, static_cast<int>(of_answers.size()));
  options.engine.max_queue = static_cast<int>(of_answers.size());
  absl::StatusOr<std::unique_ptr<Embedded>> loaded = LoadEmbedded(options);
  if (!loaded.ok()) return AnswerNone(flags, of_answers, loaded.status());
  const std::unique_ptr<Embedded> embedded = *std::move(loaded);
  H2O_RETURN_IF_ERROR(CheckAll(embedded->engine(), prompts));
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Answers> answers,
                       Answers::Create(flags.output, of_answers, "generating"));
  AskAll(prompts, embedded.get(), &trace, answers.get());
  absl::Status status = answers->Verdict();
  status.Update(trace.Close());
  return status;
}

}  // namespace

void AddGenerateCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app->add_subcommand(
      "generate", "Generates text in this process, without a server");
  AddEmbeddedFlags(command, &flags->embedded);
  AddRequestFlags(command, &flags->request);
  command
      ->add_option("--n", flags->n,
                   "Answers to each prompt, for the price of one prefill; "
                   "answer i draws with seed + i")
      ->check(CLI::Range(1, kMostChoices))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--max-sequences", flags->max_sequences,
                   "Most sequences that run at once")
      ->check(AtLeastOne())
      ->capture_default_str();
  AddOutputFlags(command, &flags->output);
  command->add_option(
      "--trace", flags->trace,
      "File for what every head keeps and evicts, as JSON lines");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(RunGenerate(*flags)); });
}

}  // namespace h2o
