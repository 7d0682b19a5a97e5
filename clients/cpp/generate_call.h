// One Generate request, over as many attempts as it takes.
//
// An attempt that fails before its first token is made again as Retry says.  If
// the server becomes unavailable later, the next attempt goes on behind the
// tokens that have come, with the seed that the server told: no token is
// missing, and none comes twice.
#pragma once

#include <grpcpp/alarm.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "base/clock.h"
#include "clients/cpp/connection.h"
#include "clients/cpp/retry.h"
#include "proto/inference.pb.h"

namespace h2o {

struct GenerateCallOptions {
  std::optional<double> timeout_seconds;  // with all attempts; none: no limit
  RetryOptions retry;
  // Holds the server back: a response is read only after the one before it was
  // answered by ReadOn().
  bool on_demand = false;
};

// Called from gRPC's threads, one call at a time.
struct GenerateCallHandler {
  // `resumes`: how often a lost server was asked to go on before this came.
  std::function<void(h2oserve::v1::GenerateResponse, int resumes)> on_response;
  // Once, last.  `told`: after how many seconds the server wants to be asked
  // again, if it has said so.
  std::function<void(const absl::Status&, std::optional<double> told)> on_end;
  // Before each pause between attempts; may be null.
  std::function<void(const absl::Status&, std::optional<double> told,
                     double pause_seconds)>
      on_retry;
};

// Changes `request` so that an answer to it goes on behind `response`.
// `first`: no response came before.  Takes out of later ones what the first one
// alone has.
void GoOnBehind(bool first, h2oserve::v1::GenerateResponse* response,
                h2oserve::v1::GenerateRequest* request);

// Threads  Cancel and ReadOn may be called by any thread.
class GenerateCall : public std::enable_shared_from_this<GenerateCall> {
 public:
  // Returns at once.  The call lives until its end, also if nobody holds it.
  static std::shared_ptr<GenerateCall> Start(
      std::shared_ptr<Connection> connection,
      h2oserve::v1::GenerateRequest request, const GenerateCallOptions& options,
      GenerateCallHandler handler);

  // No response comes after those that are being handled.
  void Cancel();
  void ReadOn();

 private:
  class Attempt;
  using Moment = std::chrono::system_clock::time_point;

  GenerateCall(std::shared_ptr<Connection> connection,
               h2oserve::v1::GenerateRequest request,
               const GenerateCallOptions& options, GenerateCallHandler handler);
  void Begin();
  // Returns whether the attempt reads on by itself.
  bool OnResponse(h2oserve::v1::GenerateResponse response);
  void OnAttemptDone(absl::Status status, std::optional<double> told);
  std::optional<double> PauseAfter(const absl::Status& status,
                                   std::optional<double> told);
  void BeginAfter(double seconds);

  const std::shared_ptr<Connection> connection_;
  const GenerateCallHandler handler_;
  const std::optional<Moment> deadline_;
  const bool on_demand_;
  const SteadyClock clock_;

  std::mutex mutex_;                       // guards what follows
  h2oserve::v1::GenerateRequest request_;  // of the next attempt
  Retry retry_;
  std::unique_ptr<Attempt> attempt_;  // null: none runs
  std::shared_ptr<grpc::Alarm> alarm_;
  int resumes_ = 0;
  bool began_ = false;     // a response has come
  bool gained_ = false;    // this attempt has given tokens
  bool complete_ = false;  // with a finish reason
  bool waits_ = false;     // the attempt reads after ReadOn
  bool cancelled_ = false;
};

}  // namespace h2o
