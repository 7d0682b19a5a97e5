// InferenceService is the public gRPC door: it translates requests for the
// Engine and streams what comes back.
//
// A slow reader never delays the engine: while one message is on its way, the
// events behind it are merged into the next (api/event_merger.h).
//
// Threads  gRPC's, and those of the engine that run event callbacks.
// Errors   status codes of absl are those of gRPC: INVALID_ARGUMENT for a bad
//          value, RESOURCE_EXHAUSTED for a full queue, UNAVAILABLE without a
//          group of workers, UNIMPLEMENTED for `generated`, CANCELLED and
//          DEADLINE_EXCEEDED as the client left or its deadline passed.
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
  // Tells people why no group is ready.  May be null.
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
