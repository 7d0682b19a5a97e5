// Reads, queues writes and ends one worker's stream.
#include "coordinator/worker_stream.h"

#include <utility>

#include "proto/grpc_status.h"

namespace h2o {

std::shared_ptr<WorkerStream> WorkerStream::Open(
    grpc::CallbackServerContext* context, std::shared_ptr<Observer> observer) {
  auto stream = std::make_shared<WorkerStream>(context, std::move(observer));
  stream->self_ = stream;
  stream->StartRead(&stream->incoming_);
  return stream;
}

void WorkerStream::Send(Message message) {
  std::lock_guard lock(mutex_);
  if (closing_) return;
  outgoing_.push_back(std::move(message));
  if (outgoing_.size() == 1) StartWrite(outgoing_.front().get());
}

void WorkerStream::Close(const absl::Status& reason, const char* end) {
  std::lock_guard lock(mutex_);
  if (closing_) return;
  closing_ = true;
  reason_ = ToGrpc(reason);
  context_->AddTrailingMetadata(kStreamEndKey, end);
  if (outgoing_.empty()) Finish(reason_);
}

void WorkerStream::OnReadDone(bool ok) {
  if (!ok) return observer_->OnEnd(this);
  observer_->OnMessage(this, incoming_);
  StartRead(&incoming_);
}

void WorkerStream::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  outgoing_.pop_front();
  if (!ok) outgoing_.clear();  // the pending read reports the broken stream
  if (!outgoing_.empty()) {
    StartWrite(outgoing_.front().get());
  } else if (closing_) {
    Finish(reason_);
  }
}

void WorkerStream::OnDone() {
  observer_->OnEnd(this);
  std::shared_ptr<WorkerStream> last;
  std::lock_guard lock(mutex_);
  last.swap(self_);  // destroyed after the lock is released
}

}  // namespace h2o
