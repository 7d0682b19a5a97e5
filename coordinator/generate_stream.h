// One Generate call: a message in, events out.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/event_merger.h"
#include "base/clock.h"
#include "base/kv_policy.h"
#include "base/limited_log.h"
#include "coordinator/engine.h"
#include "coordinator/read_turns.h"

namespace h2o {

// What the calls of a door share.
struct GenerateDoor {
  KvPolicyRequest default_kv_policy;
  int64_t max_request_bytes = 0;   // that are received at all
  int64_t most_request_bytes = 0;  // of a request that the model can run
  int max_positions = 0;           // to explain it
  double client_timeout_seconds = 0;
  bool log_requests = false;  // a line when one ends
  std::function<void(const std::string& peer, int64_t bytes)> on_message;
  std::function<void(const std::string& peer)> on_lost;
  Engine* engine = nullptr;
  const Clock* clock = nullptr;
  ReadTurns* turns = nullptr;
  // Requests that are refused, and streams that end before they are finished.
  LimitedLog* refused = nullptr;
  LimitedLog* ended = nullptr;
};

// The call is known here from its headers on, so a message that never becomes
// whole can be given up.  It lives until both gRPC and the engine are done with
// it.
//
// Threads  events come from the engine's threads, reactions from gRPC's.
class GenerateStream final : public grpc::ServerGenericBidiReactor,
                             public MessageReader {
 public:
  // `door` must outlive the call.  `tenant`: who asks, or why it may not.
  // `on_done` runs once, at its end.
  GenerateStream(grpc::GenericCallbackServerContext* context,
                 const GenerateDoor* door, absl::StatusOr<TenantRow> tenant,
                 std::function<void(GenerateStream*)> on_done);

  // Reads the message when its turn comes.
  void Start(std::shared_ptr<GenerateStream> self);

  const std::string& peer() const { return peer_; }

  // Ends the call if its message is being read.
  void GiveUpRead(const absl::Status& why);

  // Ends the call if its client neither sends nor reads for too long.
  void CheckTime(double now);

  void BeginRead() override;
  void GiveUpTurn() override;
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // kWaits and kReads: for the message.  kRuns: the engine has it.  kEnded:
  // Finish was called.
  enum class Stage { kWaits, kReads, kRuns, kEnded };

  // Parses and submits the message.
  void Submit();
  absl::StatusOr<Request> TakeRequest();
  absl::Status CancelReason() const;
  void OnEvent(StreamEvent event);
  void Refuse(const absl::Status& status);

  // REQUIRES (all): mutex_ is held.
  void End(const absl::Status& status);
  // Sends what has gathered.  REQUIRES also: no write is in flight.
  void Flush();

  grpc::GenericCallbackServerContext* const context_;  // valid until OnDone
  const GenerateDoor* const door_;
  const absl::StatusOr<TenantRow> tenant_;
  const std::function<void(GenerateStream*)> on_done_;
  const std::string peer_;
  const double began_;
  grpc::ByteBuffer received_;  // of the one read
  std::string request_id_;     // once it is known
  std::string trace_note_;     // " (trace ID)"; empty: it has no trace

  std::mutex mutex_;
  std::shared_ptr<GenerateStream> self_;  // until OnDone
  Stage stage_ = Stage::kWaits;
  std::optional<uint64_t> engine_id_;  // once Submit has returned
  bool cancelled_ = false;
  bool given_up_ = false;     // by GiveUpRead
  EventMerger waiting_;       // gathers while a message is on its way
  grpc::ByteBuffer sending_;  // on its way while writing_
  bool writing_ = false;
  double write_began_ = 0;
};

}  // namespace h2o
