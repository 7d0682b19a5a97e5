// InferenceService is the public gRPC door: it translates requests for the
// Engine and streams what comes back.
//
// A slow reader never delays the engine: while one message is on its way, the
// events behind it are merged into the next (api/event_merger.h).  A client
// that neither finishes its message nor reads its answer for
// client_timeout_seconds is given up.
//
// Threads  gRPC's, and those of the engine that run event callbacks.
// Errors   status codes of absl are those of gRPC: INVALID_ARGUMENT for a bad
//          value, RESOURCE_EXHAUSTED for a full queue, UNAVAILABLE without a
//          group of workers, UNIMPLEMENTED for a method that there is not,
//          UNAUTHENTICATED and PERMISSION_DENIED by the doorkeeper, CANCELLED
//          and DEADLINE_EXCEEDED as the client left or its deadline passed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "coordinator/doorkeeper.h"
#include "coordinator/engine.h"

namespace grpc {
class ServerBuilder;
}

namespace h2o {

struct InferenceServiceOptions {
  ModelConfig config;
  const Tokenizer* tokenizer = nullptr;  // null: no texts
  KvPolicyRequest default_kv_policy;
  std::string version;
  Doorkeeper* keeper = nullptr;  // null: everybody may do all
  bool reflection = true;        // describes the services to tools
  // Tells people why no group is ready.  May be null.
  std::function<std::string()> progress;

  int64_t max_request_bytes = 4 << 20;
  double client_timeout_seconds = 30;
  size_t max_unread = 4096;  // Generate calls whose request was not begun
  // Whether a line is logged about each request that ends.
  bool log_requests = false;
  // Hear of what comes over each connection, by its name in gRPC; all may be
  // null.  on_read: a message begins (1) or ceases (-1) to be read.
  // on_lost: before it ceases, without a message.
  std::function<void(const std::string& peer, int change)> on_read;
  std::function<void(const std::string& peer)> on_lost;
  std::function<void(const std::string& peer, int64_t bytes)> on_message;
};

class InferenceService {
 public:
  // `engine` and `clock` must outlive the gRPC server.
  InferenceService(const InferenceServiceOptions& options, Engine* engine,
                   const Clock* clock);
  ~InferenceService();

  // Adds the Inference service to the server that `builder` makes.
  void AddTo(grpc::ServerBuilder* builder);

  // Refuses the requests that are being received from `peer` (of KeyOfPeer),
  // because they have too many bytes.
  void GiveUpReads(const std::string& peer);

  // Gives up clients that are too slow.  The owner calls it a few times a
  // second.
  void Tick();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace h2o
