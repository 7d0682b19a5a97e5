// The coordinator's end of one worker's Join.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "proto/stream_end.h"
#include "proto/worker.grpc.pb.h"

namespace h2o {

// Queues writes, because a stream takes one at a time, and ends only after the
// last of them.  Lives until gRPC is done with it and nobody refers to it.
//
// Threads  Send and Close may be called by any thread.
class WorkerStream final
    : public grpc::ServerBidiReactor<h2oserve::worker::WorkerMessage,
                                     h2oserve::worker::CoordinatorMessage> {
 public:
  using Message = std::shared_ptr<const h2oserve::worker::CoordinatorMessage>;

  struct Observer {
    virtual ~Observer() = default;
    virtual void OnMessage(WorkerStream* stream,
                           const h2oserve::worker::WorkerMessage& message) = 0;
    // The peer is gone, or Close was called; no message follows.  May come
    // twice.
    virtual void OnEnd(WorkerStream* stream) = 0;
  };

  // Starts to read.
  static std::shared_ptr<WorkerStream> Open(
      grpc::CallbackServerContext* context, std::shared_ptr<Observer> observer);

  WorkerStream(grpc::CallbackServerContext* context,
               std::shared_ptr<Observer> observer)
      : context_(context),
        peer_(context->peer()),
        observer_(std::move(observer)) {}

  // The connection, as gRPC calls it.
  const std::string& peer() const { return peer_; }

  void Send(Message message);
  // The first call counts.  `end`: of proto/stream_end.h.
  void Close(const absl::Status& reason, const char* end = kStreamEndOver);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override { observer_->OnEnd(this); }
  void OnDone() override;

 private:
  grpc::CallbackServerContext* const context_;  // valid until OnDone
  const std::string peer_;
  const std::shared_ptr<Observer> observer_;
  h2oserve::worker::WorkerMessage incoming_;  // of the one read in flight

  std::mutex mutex_;
  std::shared_ptr<WorkerStream> self_;  // until OnDone
  std::deque<Message> outgoing_;        // the first is being written
  bool closing_ = false;
  grpc::Status reason_;
};

}  // namespace h2o
