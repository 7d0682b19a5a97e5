// Delivers events to callbacks in order, one at a time, without a lock.
#include "coordinator/event_stream.h"

#include <utility>

namespace h2o {

EventStream::EventStream(EventCallback on_event)
    : on_event_(std::move(on_event)) {}

bool EventStream::Add(StreamEvent event) {
  std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(event));
  return !std::exchange(claimed_, true);
}

void EventStream::Deliver() {
  std::unique_lock lock(mutex_);
  while (!waiting_.empty()) {
    StreamEvent event = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    if (on_event_) on_event_(std::move(event));
    lock.lock();
  }
  claimed_ = false;
}

void Outbox::Add(std::shared_ptr<EventStream> stream, StreamEvent event) {
  if (stream->Add(std::move(event))) streams_.push_back(std::move(stream));
}

void Outbox::Deliver() {
  for (const std::shared_ptr<EventStream>& stream : streams_) stream->Deliver();
  streams_.clear();
}

}  // namespace h2o
