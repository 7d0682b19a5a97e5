// h2oserve tokenize: prints the token ids of texts.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "api/result.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/input.h"
#include "model/model_config.h"
#include "model/tokenizer.h"

namespace h2o {
namespace {

struct TokenizeFlags {
  std::string model;
  std::string text;
  std::string input;
};

absl::Status RunTokenize(const TokenizeFlags& flags) {
  H2O_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(flags.model));
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                       Tokenizer::Load(flags.model, config.vocab_size));
  std::vector<Prompt> prompts;
  if (flags.input.empty()) {
    Request& request = prompts.emplace_back().request;
    request.text = flags.text;
    request.has_text = true;
  } else {
    H2O_ASSIGN_OR_RETURN(prompts, ReadInputLines(flags.input, Request{}));
  }
  for (const Prompt& prompt : prompts) {
    const Request& request = prompt.request;
    std::vector<int32_t> tokens = request.tokens;
    if (request.has_text) {
      H2O_ASSIGN_OR_RETURN(tokens, tokenizer->Encode(request.text));
    }
    nlohmann::ordered_json line;
    line["tokens"] = tokens;
    std::printf("%s\n", WithOthers(line.dump(), prompt.others).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command = app->add_subcommand(
      "tokenize",
      "Prints the token ids of texts, one JSON object for each text");
  command->add_option("--model", flags->model, "Model directory")->required();
  auto* text = command->add_option("--prompt", flags->text, "Text");
  command
      ->add_option("--input", flags->input,
                   "File of JSON lines, each {\"prompt\": ..}")
      ->excludes(text);
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(RunTokenize(*flags)); });
}

}  // namespace h2o
