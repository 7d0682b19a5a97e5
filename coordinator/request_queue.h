// The requests that wait for a group, in order of arrival.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "coordinator/sequence.h"

namespace h2o {

class RequestQueue {
 public:
  using Taken = std::vector<std::unique_ptr<Sequence>>;

  size_t size() const { return waiting_.size(); }
  bool empty() const { return waiting_.empty(); }

  void Push(std::unique_ptr<Sequence> sequence);
  // Puts sequences that ran before in front of all others, in their order.
  void PushInFront(Taken sequences);

  // The request to serve next: the first in order of arrival that `fits`.  It
  // may overtake at most `may_pass` requests that do not fit; with 0, a request
  // that does not fit blocks all behind it.  A text that is still being encoded
  // blocks only other texts; token prompts overtake it, and that is not
  // counted.  Stranded requests block nobody.
  Sequence* Next(absl::FunctionRef<bool(Sequence&)> fits, int may_pass) const;

  // Null if it does not wait here.
  Sequence* Find(uint64_t id) const;

  // Null if it does not wait here.
  std::unique_ptr<Sequence> Remove(uint64_t id);
  Taken RemoveIf(absl::FunctionRef<bool(Sequence&)> goes);
  // How long the request that has waited longest waits; 0 if none does.
  double OldestSeconds(double now) const;
  void ForEach(absl::FunctionRef<void(Sequence&)> visit);
  // Those that have waited for longer than `max_seconds` at the time `now`.
  // Requests that ran before, and stranded ones, have limits of their own.
  Taken RemoveExpired(double max_seconds, double now);

 private:
  std::list<std::unique_ptr<Sequence>> waiting_;
};

}  // namespace h2o
