// The subcommands of h2oserve.  Each Add function registers one, with its
// flags and help; running it leaves the program's exit code in *exit_code.
#pragma once

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace h2o {

void AddGenerateCommand(CLI::App* app, int* exit_code);
void AddLogitsCommand(CLI::App* app, int* exit_code);
void AddEvalCommand(CLI::App* app, int* exit_code);
void AddTokenizeCommand(CLI::App* app, int* exit_code);
void AddBenchCommand(CLI::App* app, int* exit_code);
void AddTuneCommand(CLI::App* app, int* exit_code);
void AddQuantizeCommand(CLI::App* app, int* exit_code);
void AddKeyCommand(CLI::App* app, int* exit_code);
// With gRPC:
void AddServeCommand(CLI::App* app, int* exit_code);
void AddCallCommand(CLI::App* app, int* exit_code);
void AddBatchCommand(CLI::App* app, int* exit_code);
void AddLoadtestCommand(CLI::App* app, int* exit_code);
void AddTopCommand(CLI::App* app, int* exit_code);
void AddDrainCommand(CLI::App* app, int* exit_code);

// The exit code (flags/exit_code.h); if it is not 0, after one line on stderr
// that says what was wrong.  That what was printed could not be written is a
// fault.
int ExitCodeOf(const absl::Status& status);

}  // namespace h2o
