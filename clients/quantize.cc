// `h2oserve quantize`: writes a checkpoint again with weights of codes.
#include "quantize/quantize.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/progress_bar.h"
#include "flags/flags.h"

namespace h2o {
namespace {

struct QuantizeFlags {
  QuantizeOptions options;
  std::string weights;
  int threads = 0;  // 0: all cores that this process may use
  bool json = false;
};

void Print(const QuantizeFlags& flags, const QuantizeReport& report) {
  const QuantizeOptions& options = flags.options;
  if (!flags.json) {
    const std::string calibrated =
        report.tokens == 0
            ? ""
            : absl::StrCat(", calibrated on ", report.tokens, " tokens");
    std::printf("%s\n", absl::StrCat(options.out, ": ", report.weights,
                                     " weights as ", flags.weights, calibrated,
                                     "; ", report.bytes_before,
                                     " bytes became ", report.bytes_after)
                            .c_str());
    return;
  }
  nlohmann::ordered_json line;
  line["out"] = options.out;
  line["weights"] = flags.weights;
  if (flags.weights == "int4") line["weight_group"] = options.coding.group;
  line["tensors"] = report.weights;
  line["calibration_tokens"] = report.tokens;
  line["bytes_before"] = report.bytes_before;
  line["bytes_after"] = report.bytes_after;
  // A path may hold bytes that are no UTF-8.
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  std::printf("%s\n", line.dump(-1, ' ', false, kReplace).c_str());
}

absl::Status RunQuantize(const QuantizeFlags& flags) {
  QuantizeOptions options = flags.options;
  options.coding.format = *ParseWeightFormat(flags.weights);  // of the list
  options.num_threads = flags.threads > 0 ? flags.threads : AvailableCores();
  QuantizeReport report;
  {
    ProgressBar bar("quantising " + options.model);
    options.progress = [&bar](double fraction) { bar.Set(fraction); };
    H2O_ASSIGN_OR_RETURN(report, Quantize(options));
  }
  Print(flags, report);
  return absl::OkStatus();
}

}  // namespace

void AddQuantizeCommand(CLI::App* app, int* exit_code) {
  auto flags = std::make_shared<QuantizeFlags>();
  QuantizeOptions& options = flags->options;
  CLI::App* command = app->add_subcommand(
      "quantize",
      "Writes a checkpoint again with the weights of its layers as codes of 4 "
      "or 8 bits, in the layout of compressed-tensors, which transformers and "
      "vLLM read, too (docs/weights.md)");
  command->add_option("--model", options.model, "Model directory")->required();
  command
      ->add_option("--weights", flags->weights,
                   "Codes: int4, fp8 (e4m3) or int8")
      ->required()
      ->check(CLI::IsMember({"int4", "fp8", "int8"}));
  command
      ->add_option("--out", options.out,
                   "Directory for the new checkpoint: new or empty. It appears "
                   "complete or not at all")
      ->required();
  command
      ->add_option("--weight-group", options.coding.group,
                   "Of int4: inputs that share a scale, 64 or 128")
      ->check(CLI::IsMember({64, 128}))
      ->capture_default_str();
  auto* text = command->add_option(
      "--calibrate", options.text,
      "UTF-8 text file to calibrate on, documents separated by NUL bytes, or "
      "lines if there are none: weights are rounded so that the layers' "
      "outputs "
      "change least (GPTQ). Default: every weight to its nearest code, as "
      "--weights does when a model is loaded");
  command
      ->add_option("--calibrate-tokens", options.tokens,
                   "Tokens of that text to use, from its start")
      ->needs(text)
      ->check(AtLeastOne())
      ->capture_default_str();
  command
      ->add_option(
          "--threads", flags->threads,
          "Threads. The codes are the same for any number. Default: all "
          "cores")
      ->check(AtLeastOne());
  command->add_flag("--json", flags->json,
                    "Print what was done as a JSON object");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(RunQuantize(*flags)); });
}

}  // namespace h2o
