// The flags that several programs share, as bundles: a struct that holds them,
// and a function that adds them, with their help, to a CLI11 command.
//
// Errors of syntax (not a number, not in the list, out of range) are reported
// while parsing.  Errors that need more knowledge are a Status of the function
// that reads the bundle.  No flag is ignored: a program adds only the flags
// that it uses.
//
// Threads  for main() and its thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/engine_options.h"
#include "api/request.h"
#include "base/kv_policy.h"
#include "model/model_spec.h"

namespace CLI {
class App;
class Validator;
}  // namespace CLI

namespace h2o {

// A number from `low` to `high`; the error says what it must be.  (CLI::Range
// accepts NaN.)
CLI::Validator Within(double low, double high, const std::string& what);
CLI::Validator AtLeastOne();  // a whole number of 32 bits

// --model, --dtype, --kv-dtype, --load-format, --dummy-seed
struct ModelFlags {
  ModelSpec spec;
};
void AddModelFlags(CLI::App* app, ModelFlags* flags);

// --kv-policy, --kv-budget, --kv-heavy, --kv-recent, --kv-prefill
struct PolicyFlags {
  std::string policy, budget;  // empty: not given
  std::optional<int32_t> heavy, recent;
  bool flexgen_prefill = false;

  // Nothing if none of the flags was given.  Errors: INVALID_ARGUMENT.
  absl::StatusOr<std::optional<KvPolicyRequest>> Request() const;
};
void AddPolicyFlags(CLI::App* app, PolicyFlags* flags);

// --max-queue, --max-queue-seconds, --max-queue-tokens, --head-patience,
// --max-sequences, --stall-target-ms, --kv-budget-cap.  The default policy
// comes from PolicyFlags.
struct EngineFlags {
  EngineOptions options;
};
void AddEngineFlags(CLI::App* app, EngineFlags* flags);

// The requests of `generate` and `call`: --prompt, --tokens or --input, and the
// options that hold for all prompts (FlagsOfRequests in api/request_json.h).
struct RequestFlags {
  std::optional<std::string> prompt, tokens, input;
  Request defaults;    // all but the prompt and the policy
  PolicyFlags policy;  // likewise for all requests
};
void AddRequestFlags(CLI::App* app, RequestFlags* flags);

// The user's cache folder: h2oserve in $XDG_CACHE_HOME or ~/.cache; empty if
// neither is set.
std::string DefaultCacheDirectory();

// --device, --cache-dir
struct DeviceFlags {
  std::string device = "cpu";
  std::string cache_directory = DefaultCacheDirectory();
};
void AddDeviceFlags(CLI::App* app, DeviceFlags* flags);

// The resources of a rank: device flags, --threads, --kv-pool-bytes,
// --memory-share.
struct ShardFlags : DeviceFlags {
  int threads = 0;            // 0: all cores that this process may use
  int64_t kv_pool_bytes = 0;  // 0: from memory_share
  double memory_share = 0;    // of what is free after loading; 0: by device
};
void AddShardFlags(CLI::App* app, ShardFlags* flags);

// --transport auto|tcp, between the ranks of several processes.
void AddTransportFlag(CLI::App* app, bool* tcp_only);

// --log-format text|json, which takes effect at once.  For programs that run
// long.
void AddLogFlag(CLI::App* app);

// Of access_flags.h.  Empty: not given.
struct AccessFlags {
  std::string certificate, key, client_ca, worker_ca, api_keys;
  bool metrics_need_key = true;  // where keys exist
  bool require_auth = false;
  bool no_reflection = false;
};

// --tp, --groups, --listen, --step-deadline-ms, --formation-timeout,
// --drain-seconds, --fault-dir, --grace, --max-connections,
// --max-request-bytes, --client-timeout; with the bundles of model, policy and
// engine, all flags of a coordinator.
struct CoordinatorFlags {
  ModelFlags model;
  PolicyFlags policy;
  EngineFlags engine;
  int tp = 1;
  int groups = 1;
  std::string listen = "127.0.0.1:50051";
  std::string http = "off";
  std::string served_model_name;  // empty: the last part of --model
  std::string chat_template;      // a file; empty: the model's own
  bool vllm_metrics = true;
  int step_deadline_ms = 30'000;
  double formation_timeout_seconds = 20;
  double grace_seconds = 30;
  std::string fault_dir;  // empty: none
  int max_connections = 1024;
  int64_t max_request_bytes = 4 << 20;
  double client_timeout_seconds = 30;
  bool log_requests = false;
  double http_header_timeout_seconds = 10;
  double slow_client_seconds = 30;
  int overload_status = 503;
  bool strict_fields = false;
  std::vector<std::string> allowed_origins;
  int max_handshakes = 200;
  std::string worker_socket;  // where workers of `serve` join; empty: none
  AccessFlags access;
};
void AddCoordinatorFlags(CLI::App* app, CoordinatorFlags* flags);

// Cores that this process may run on, by its affinity and its control group; at
// least 1.
int AvailableCores();

// Parses the command line.  Returns nothing on success, else the program's exit
// code: 0 after --help and --version, 2 after an error line on stderr.
std::optional<int> ParseCommandLine(CLI::App* app, int argc, char** argv);

}  // namespace h2o
