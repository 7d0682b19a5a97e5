// Asks a server over HTTP.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/caller.h"
#include "clients/input.h"
#include "clients/server_flags.h"

namespace h2o {

// As calls over gRPC: what fails before its first token is asked again, and an
// answer that breaks goes on behind its tokens.  A thread and a connection for
// each of up to 64 prompts at once.  `prompts` must outlive it.
// Errors: INVALID_ARGUMENT if a prompt has no form over HTTP, or OpenSSL cannot
// use the certificates.
absl::StatusOr<std::unique_ptr<Caller>> NewHttpCaller(
    const HttpServerPlace& server, const std::vector<Prompt>& prompts,
    CallerOptions options);

}  // namespace h2o
