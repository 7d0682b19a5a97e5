// A connection to a server: its channel, certificates and key.  Every call of
// clients is prepared here.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/tls_material.h"
#include "h2oserve/client.h"
#include "proto/inference.grpc.pb.h"

namespace h2o {

// The moment `seconds` from now; far in the future at most.
std::chrono::system_clock::time_point DeadlineIn(double seconds);

// After how many seconds the server wants to be asked again; none: it has not
// said so.  REQUIRES: the call is over.
std::optional<double> ToldRetryAfter(const grpc::ClientContext& context);

// Threads  any.
class Connection {
 public:
  // Reads the certificates; connects when it is first used.  Takes of the
  // options what the server, the key and TLS are.
  // Errors: INVALID_ARGUMENT for an address that is none, a key that no header
  // can carry, or certificates that cannot be used.
  static absl::StatusOr<std::shared_ptr<Connection>> Open(
      const ClientOptions& options);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  h2oserve::v1::Inference::Stub* inference() const { return inference_.get(); }
  h2oserve::v1::Admin::Stub* admin() const { return admin_.get(); }

  // Gives a call its key and its deadline; none: it has none.
  void Prepare(std::optional<std::chrono::system_clock::time_point> deadline,
               grpc::ClientContext* context) const;

  // When the server last gave a whole answer, by a SteadyClock; at first: when
  // the connection was opened.
  double last_answer() const { return last_answer_; }
  void SetLastAnswer(double now) { last_answer_ = now; }

 private:
  Connection(const ClientOptions& options, const TlsMaterial& tls);

  const std::string api_key_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<h2oserve::v1::Inference::Stub> inference_;
  const std::unique_ptr<h2oserve::v1::Admin::Stub> admin_;
  std::atomic<double> last_answer_;
};

}  // namespace h2o
