// Takes gRPC's messages into our log.
#include "proto/grpc_log.h"

#include <grpc/support/log.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/limited_log.h"

namespace h2o {
namespace {

std::atomic<int64_t>& Failed() {
  static std::atomic<int64_t> failed{0};
  return failed;
}

void LogFromGrpc(gpr_log_func_args* args) {
  static const SteadyClock clock;
  static LimitedLog* const log = new LimitedLog(&clock);
  const std::string text = std::string("gRPC: ") + args->message;
  if (std::string_view(args->message).starts_with("Handshake failed")) {
    ++Failed();
  }
  if (args->severity == GPR_LOG_SEVERITY_ERROR) {
    log->Add(LogLevel::kWarning, "", text);
  } else {
    Log(LogLevel::kInfo, "", text);
  }
}

}  // namespace

int64_t FailedHandshakes() { return Failed(); }

void LogForGrpc() { gpr_set_log_function(LogFromGrpc); }

}  // namespace h2o
