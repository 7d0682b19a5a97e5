// Takes turns at reading messages: of each connection so many at a time.  A
// message that is being read may take as much memory as the largest, one that
// waits only the first bytes of its stream.  So many may wait in all: gRPC 1.51
// takes any number of streams from a client that does not acknowledge the limit
// that it was told (RFC 9113, 6.5.3).
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace h2o {

// What reads one message.
class MessageReader {
 public:
  virtual ~MessageReader() = default;
  // Its turn has come.  No lock of the turns is held.
  virtual void BeginRead() = 0;
  // Its turn will not come, because too many wait.  No lock is held.
  virtual void GiveUpTurn() = 0;
};

// Threads  any thread may call the methods.
class ReadTurns {
 public:
  // A slow message holds up only those of its own connection, and only if there
  // are as many of them.
  static constexpr size_t kAtOnce = 4;

  // Hears of each read of a connection that begins (1) or has ended (-1).
  using OnRead = std::function<void(const std::string& peer, int change)>;
  // `most_waiting`: readers of all connections that wait for their turn.
  ReadTurns(OnRead on_read, size_t most_waiting)
      : on_read_(std::move(on_read)), most_waiting_(most_waiting) {}

  // `reader` begins now, or when its turn comes.  If too many wait then, the
  // first of the connection with the most of them is given up.
  void Enter(const std::string& peer, std::shared_ptr<MessageReader> reader) {
    std::shared_ptr<MessageReader> next, given_up;
    {
      std::lock_guard lock(mutex_);
      Peer& at = peers_[peer];
      if (at.reading.size() < kAtOnce) {
        next = std::move(reader);
        at.reading.push_back(next.get());
      } else {
        at.waiting.push_back(std::move(reader));
        if (++num_waiting_ > most_waiting_) given_up = TakeFirst(Longest());
      }
    }
    if (next != nullptr) Begin(peer, *next);
    if (given_up != nullptr) given_up->GiveUpTurn();
  }

  // `reader` has read, or will not.  No effect if it left before.
  void Leave(const std::string& peer, const MessageReader* reader) {
    std::shared_ptr<MessageReader> next;
    {
      std::lock_guard lock(mutex_);
      const auto it = peers_.find(peer);
      if (it == peers_.end()) return;
      Peer& at = it->second;
      num_waiting_ -= std::erase_if(
          at.waiting, [&](const auto& waits) { return waits.get() == reader; });
      if (std::erase(at.reading, reader) == 0) return;
      if (!at.waiting.empty()) {
        next = TakeFirst(&at);
        at.reading.push_back(next.get());
      }
      if (at.reading.empty()) peers_.erase(it);
    }
    if (on_read_) on_read_(peer, -1);
    if (next != nullptr) Begin(peer, *next);
  }

 private:
  struct Peer {
    std::vector<const MessageReader*> reading;
    std::deque<std::shared_ptr<MessageReader>> waiting;  // if kAtOnce read
  };

  void Begin(const std::string& peer, MessageReader& reader) {
    if (on_read_) on_read_(peer, 1);
    reader.BeginRead();
  }

  // REQUIRES (both): mutex_ is held, and somebody waits.
  Peer* Longest() {
    return &std::max_element(peers_.begin(), peers_.end(),
                             [](const auto& a, const auto& b) {
                               return a.second.waiting.size() <
                                      b.second.waiting.size();
                             })
                ->second;
  }
  std::shared_ptr<MessageReader> TakeFirst(Peer* peer) {
    std::shared_ptr<MessageReader> first = std::move(peer->waiting.front());
    peer->waiting.pop_front();
    --num_waiting_;
    return first;
  }

  const OnRead on_read_;  // may be null
  const size_t most_waiting_;
  std::mutex mutex_;  // guards what follows
  size_t num_waiting_ = 0;
  std::unordered_map<std::string, Peer> peers_;  // those with readers
};

}  // namespace h2o
