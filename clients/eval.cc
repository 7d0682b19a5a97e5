// `h2oserve eval`: what KV policies and budgets lose on a text.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/new_file.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/embedded_flags.h"
#include "clients/progress_bar.h"
#include "eval/evaluate.h"
#include "eval/plot.h"
#include "eval/report.h"
#include "flags/flags.h"

namespace h2o {
namespace {

struct EvalFlags {
  EmbeddedFlags embedded;
  std::string text, recall;
  int documents = 8;
  int prompt_len = 256, decode_len = 768;
  bool token_by_token = false;
  std::string policies = "full,h2o,sink,recent";
  std::string budgets = "5%,10%,20%";
  std::string plot;
  bool json = false;
};

absl::StatusOr<EvalOptions> OptionsOf(const EvalFlags& flags,
                                      const Embedded& embedded) {
  EvalOptions options;
  options.prompt_tokens = flags.prompt_len;
  options.token_by_token = flags.token_by_token;
  if (embedded.tokenizer() == nullptr) {
    return absl::InvalidArgumentError("the model has no tokenizer");
  }
  H2O_ASSIGN_OR_RETURN(
      options.documents,
      ReadDocuments(flags.text, *embedded.tokenizer(), flags.documents,
                    flags.prompt_len + flags.decode_len));
  if (!flags.recall.empty()) {
    H2O_ASSIGN_OR_RETURN(options.recall, ReadRecallTexts(flags.recall));
  }
  return options;
}

absl::Status RunEval(const EvalFlags& flags) {
  H2O_ASSIGN_OR_RETURN(std::vector<EvalSetting> settings,
                       ParseSettings(flags.policies, flags.budgets));
  H2O_ASSIGN_OR_RETURN(EmbeddedOptions shared, flags.embedded.Options());
  shared.engine.max_sequences = 16;  // logits are large
  shared.engine.max_queue = std::numeric_limits<int>::max();
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Embedded> embedded,
                       LoadEmbedded(shared));
  H2O_ASSIGN_OR_RETURN(EvalOptions options, OptionsOf(flags, *embedded));
  options.settings = std::move(settings);
  std::vector<EvalResult> results;
  {
    ProgressBar bar("eval");
    H2O_ASSIGN_OR_RETURN(
        results, Evaluate(options, embedded.get(),
                          [&bar](double fraction) { bar.Set(fraction); }));
  }
  if (!flags.plot.empty()) {
    H2O_ASSIGN_OR_RETURN(NewFile plot, NewFile::Create(flags.plot));
    plot.Append(EvalPlot(results));
    H2O_RETURN_IF_ERROR(plot.Commit());
  }
  if (!flags.json) {
    std::printf("%s%zu documents of %zu tokens, scored from token %d\n",
                EvalTable(results).c_str(), options.documents.size(),
                options.documents[0].size(), options.prompt_tokens);
    return absl::OkStatus();
  }
  for (const EvalResult& result : results) {
    std::printf("%s\n", EvalJson(result).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvalCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app->add_subcommand(
      "eval",
      "Measures what KV policies and budgets lose: perplexity, agreement with "
      "the full cache, and facts that are recalled (docs/quality.md)");
  AddEmbeddedFlags(command, &flags->embedded);
  command
      ->add_option("--text", flags->text,
                   "UTF-8 text file: documents separated by NUL bytes, or by "
                   "blank lines if there are none. If no document is long "
                   "enough, the whole text is cut into windows")
      ->required();
  command
      ->add_option("--documents", flags->documents,
                   "Documents to take at most: the first that have enough "
                   "tokens")
      ->check(AtLeastOne())
      ->capture_default_str();
  command
      ->add_option("--prompt-len", flags->prompt_len,
                   "Tokens of each document that go through prefill and are "
                   "not scored")
      ->check(AtLeastOne())
      ->capture_default_str();
  command
      ->add_option("--decode-len", flags->decode_len,
                   "Tokens behind them that are decoded through the cache and "
                   "scored")
      ->check(AtLeastOne())
      ->capture_default_str();
  command->add_flag("--token-by-token", flags->token_by_token,
                    "Decode the prompt, too, from its second token on");
  command
      ->add_option("--policies", flags->policies,
                   "KV policies to compare: full, h2o, recent, sink")
      ->capture_default_str();
  command
      ->add_option("--budgets", flags->budgets,
                   "Budgets of each policy but full: slots of a head, or a "
                   "share of a document's tokens")
      ->capture_default_str();
  command->add_option("--recall", flags->recall,
                      "File of JSON lines {\"tokens\": [..], \"answers\": "
                      "[[..], ..]}: an answer lists the positions of a fact's "
                      "tokens, which count if all are the likeliest");
  command->add_option("--plot", flags->plot,
                      "SVG file: perplexity over KV bytes, a line for each "
                      "policy");
  command->add_flag("--json", flags->json,
                    "Print a JSON object for each setting");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(RunEval(*flags)); });
}

}  // namespace h2o
