// InferenceService is the public door: it checks requests, hands them to the
// Engine and streams what comes back.
//
// A slow reader never holds up the engine: while one message is on its way the
// next ones are merged into one, so a stream never holds more than its own
// tokens and text.
//
// Threads  gRPC's, and the engine's loops through their event callbacks.
// Errors   absl's codes are gRPC's; see docs and proto/inference.proto.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "coordinator/engine.h"

namespace grpc {
class Service;
}

namespace h2o {

struct InferenceServiceOptions {
  ModelConfig config;
  KvPolicyRequest default_kv_policy;
  std::string version;
  // Says why no group is ready, for people; may be empty.
  std::function<std::string()> progress;
};

class InferenceService {
 public:
  // `engine` must outlive the gRPC server.
  InferenceService(const InferenceServiceOptions& options, Engine* engine);
  ~InferenceService();

  // The Inference service, for the server's builder.
  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace h2o
