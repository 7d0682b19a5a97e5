// Sends the requests of a load test through the C++ client.
#include "clients/loadtest_target.h"

#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/monitor.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

LoadOutcome OutcomeOf(const std::optional<Error>& error) {
  if (!error) return LoadOutcome::kOk;
  return error->code == ErrorCode::kResourceExhausted ? LoadOutcome::kRefused
                                                      : LoadOutcome::kFailed;
}

class GrpcTarget final : public Target {
 public:
  // A client, with a connection of its own, for each tenant.
  GrpcTarget(std::vector<Client> clients, const Pace* pace)
      : clients_(std::move(clients)), pace_(pace) {}

  ~GrpcTarget() override {
    Monitor::Lock lock(monitor_);
    lock.Await(
        [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return num_running_ == 0; });
  }
  GrpcTarget(const GrpcTarget&) = delete;

  void Start(LoadRequest request, LoadHandler handler) override {
    const auto client = KeyOfTenant(request.tenant, clients_.size());
    if (!client.ok()) {
      handler.on_end(pace_->Now(), LoadOutcome::kFailed,
                     client.status().ToString());
      return;
    }
    int64_t id = 0;
    {
      Monitor::Lock lock(monitor_);
      id = next_id_++;
      ++num_running_;
    }
    GenerateRequest asked;
    asked.prompt = std::move(request.prompt);
    asked.max_tokens = request.output_tokens;
    asked.ignore_eos = true;
    RunningRequest running = clients_[*client].Start(
        asked,
        [this, on_tokens = handler.on_tokens](const Piece& piece) {
          if (piece.tokens.empty()) return;
          on_tokens(pace_->Now(), static_cast<int>(piece.tokens.size()));
        },
        [this, id, on_end = handler.on_end](std::optional<Error> error) {
          on_end(pace_->Now(), OutcomeOf(error),
                 error ? error->ToString() : "");
          End(id);
        });
    Monitor::Lock lock(monitor_);
    if (ended_early_.erase(id) == 0) running_.emplace(id, std::move(running));
  }

  void CancelAll() override {
    Monitor::Lock lock(monitor_);
    for (auto& [id, running] : running_) running.Cancel();
  }

 private:
  void End(int64_t id) {
    Monitor::Lock lock(monitor_);
    if (running_.erase(id) == 0) ended_early_.insert(id);
    --num_running_;
  }

  const std::vector<Client> clients_;
  const Pace* const pace_;

  Monitor monitor_;
  int64_t next_id_ ABSL_GUARDED_BY(monitor_) = 0;
  int64_t num_running_ ABSL_GUARDED_BY(monitor_) = 0;
  std::map<int64_t, RunningRequest> running_ ABSL_GUARDED_BY(monitor_);
  // Ended before Start had written them down.
  std::set<int64_t> ended_early_ ABSL_GUARDED_BY(monitor_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Target>> NewGrpcTarget(
    const ServerFlags& server, const std::vector<std::string>& keys,
    double timeout_seconds, const Pace* pace) {
  ClientOptions options = OptionsOf(server);
  options.retry.enabled = false;
  options.timeout_seconds = timeout_seconds;
  std::vector<Client> clients;
  for (const std::string& key :
       keys.empty() ? std::vector<std::string>{server.credentials.api_key}
                    : keys) {
    options.api_key = key;
    const Expected<Client> client = Client::Connect(options);
    if (!client) return StatusOf(client.error());
    clients.push_back(*client);
  }
  return std::make_unique<GrpcTarget>(std::move(clients), pace);
}

}  // namespace h2o
