// Carries events from the Engine to a client's callback.  Events are added
// under the Engine's lock, which fixes their order, and delivered without it.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "api/request.h"

namespace h2o {

// The events of one request that its callback has not seen yet.  Whatever
// threads add and deliver, the callback gets them in the order in which they
// were added, and one at a time.
//
// Threads  any thread may call the methods.
class EventStream {
 public:
  explicit EventStream(EventCallback on_event);

  // Adds an event; does not call the callback.  Returns true if the caller must
  // make sure that Deliver() runs, false if another thread already does.
  bool Add(StreamEvent event);

  // Calls the callback with all events there are, also with those that others
  // add meanwhile.  REQUIRES: Add() returned true, once for each call.
  void Deliver();

 private:
  const EventCallback on_event_;  // may be null
  std::mutex mutex_;
  std::deque<StreamEvent> waiting_;
  bool claimed_ = false;  // a thread delivers, or is about to
};

// Streams that somebody must deliver once the Engine's lock is released.
//
// Threads  not thread-safe; the Engine's lock, or one thread's own.
class Outbox {
 public:
  void Add(std::shared_ptr<EventStream> stream, StreamEvent event);
  bool empty() const { return streams_.empty(); }
  // Delivers all.  REQUIRES: no lock is held.
  void Deliver();

 private:
  std::vector<std::shared_ptr<EventStream>> streams_;
};

}  // namespace h2o
