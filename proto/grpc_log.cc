// Takes gRPC's messages into our log.
#include "proto/grpc_log.h"

#include <grpc/support/log.h>

#include <cstdlib>
#include <string>

#include "base/limited_log.h"

namespace h2o {
namespace {

void LogFromGrpc(gpr_log_func_args* args) {
  static const SteadyClock clock;
  static LimitedLog* const log = new LimitedLog(&clock);
  const std::string text = std::string("gRPC: ") + args->message;
  if (args->severity == GPR_LOG_SEVERITY_ERROR) {
    log->Add(LogLevel::kWarning, "", text);
  } else {
    Log(LogLevel::kInfo, "", text);
  }
}

}  // namespace

void LogForGrpc() { gpr_set_log_function(LogFromGrpc); }

}  // namespace h2o
