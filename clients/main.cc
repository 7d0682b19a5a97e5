// h2oserve: one program for people.  `generate`, `logits`, `eval`, `tokenize`,
// `bench`, `tune` and `quantize` hold the model themselves; `serve` starts
// processes and `call` talks to them.
#include <CLI/CLI.hpp>

#include "clients/commands.h"
#include "flags/flags.h"
#include "flags/process.h"

int main(int argc, char** argv) {
  h2o::PrepareProcess();
  CLI::App app(
      "Serves OPT models, keeping in memory only the keys and values that "
      "matter (H2O).",
      "h2oserve");
  app.require_subcommand(1);
  int exit_code = 0;
#ifdef H2O_WITH_GRPC
  h2o::AddServeCommand(&app, &exit_code);
  h2o::AddCallCommand(&app, &exit_code);
  h2o::AddBatchCommand(&app, &exit_code);
  h2o::AddDrainCommand(&app, &exit_code);
  h2o::AddLoadtestCommand(&app, &exit_code);
  h2o::AddTopCommand(&app, &exit_code);
#endif
  h2o::AddGenerateCommand(&app, &exit_code);
  h2o::AddLogitsCommand(&app, &exit_code);
  h2o::AddEvalCommand(&app, &exit_code);
  h2o::AddTokenizeCommand(&app, &exit_code);
  h2o::AddBenchCommand(&app, &exit_code);
  h2o::AddTuneCommand(&app, &exit_code);
  h2o::AddQuantizeCommand(&app, &exit_code);
  h2o::AddKeyCommand(&app, &exit_code);
  return h2o::ParseCommandLine(&app, argc, argv).value_or(exit_code);
}
