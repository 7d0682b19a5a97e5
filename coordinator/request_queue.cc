// Order of service, removal and expiry of the requests that wait.
#include "coordinator/request_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace h2o {

void RequestQueue::Push(std::unique_ptr<Sequence> sequence) {
  waiting_.push_back(std::move(sequence));
}

void RequestQueue::PushInFront(Taken sequences) {
  waiting_.insert(waiting_.begin(), std::make_move_iterator(sequences.begin()),
                  std::make_move_iterator(sequences.end()));
}

double RequestQueue::OldestSeconds(double now) const {
  double oldest = 0;
  for (const std::unique_ptr<Sequence>& sequence : waiting_) {
    oldest = std::max(oldest, sequence->queued_seconds(now));
  }
  return oldest;
}

void RequestQueue::ForEach(absl::FunctionRef<void(Sequence&)> visit) {
  for (const std::unique_ptr<Sequence>& sequence : waiting_) visit(*sequence);
}

Sequence* RequestQueue::Next(absl::FunctionRef<bool(Sequence&)> fits,
                             int may_pass) const {
  bool a_text_is_encoded = false;
  int passed = 0;
  for (const std::unique_ptr<Sequence>& sequence : waiting_) {
    if (sequence->state() == Sequence::State::kEncoding) {
      a_text_is_encoded = true;
      continue;
    }
    if (a_text_is_encoded && sequence->was_text()) continue;
    if (sequence->stranded()) continue;
    if (fits(*sequence)) return sequence.get();
    if (++passed > may_pass) break;
  }
  return nullptr;
}

Sequence* RequestQueue::Find(uint64_t id) const {
  for (const std::unique_ptr<Sequence>& sequence : waiting_) {
    if (sequence->id() == id) return sequence.get();
  }
  return nullptr;
}

std::unique_ptr<Sequence> RequestQueue::Remove(uint64_t id) {
  Taken taken = RemoveIf([id](const Sequence& s) { return s.id() == id; });
  return taken.empty() ? nullptr : std::move(taken.front());
}

RequestQueue::Taken RequestQueue::RemoveIf(
    absl::FunctionRef<bool(Sequence&)> goes) {
  Taken taken;
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    if (goes(**it)) {
      taken.push_back(std::move(*it));
      it = waiting_.erase(it);
    } else {
      ++it;
    }
  }
  return taken;
}

RequestQueue::Taken RequestQueue::RemoveExpired(double max_seconds,
                                                double now) {
  return RemoveIf([&](const Sequence& sequence) {
    return sequence.CanReplay() && !sequence.stranded() &&
           sequence.queued_seconds(now) > max_seconds;
  });
}

}  // namespace h2o
