// Takes turns at reading messages: of each connection so many at a time.  A
// message that is being read may take as much memory as the largest, one that
// waits only the first bytes of its stream.
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
};

// Threads  any thread may call the methods.
class ReadTurns {
 public:
  // A slow message holds up only those of its own connection, and only if there
  // are as many of them.
  static constexpr size_t kAtOnce = 4;

  // Hears of each read of a connection that begins (1) or has ended (-1).
  using OnRead = std::function<void(const std::string& peer, int change)>;
  explicit ReadTurns(OnRead on_read) : on_read_(std::move(on_read)) {}

  // `reader` begins now, or when its turn comes.
  void Enter(const std::string& peer, std::shared_ptr<MessageReader> reader) {
    {
      std::lock_guard lock(mutex_);
      Peer& at = peers_[peer];
      if (at.reading.size() >= kAtOnce) {
        at.waiting.push_back(std::move(reader));
        return;
      }
      at.reading.push_back(reader.get());
    }
    Begin(peer, *reader);
  }

  // `reader` has read, or will not.  No effect if it left before.
  void Leave(const std::string& peer, const MessageReader* reader) {
    std::shared_ptr<MessageReader> next;
    {
      std::lock_guard lock(mutex_);
      const auto it = peers_.find(peer);
      if (it == peers_.end()) return;
      Peer& at = it->second;
      std::erase_if(at.waiting,
                    [&](const auto& waits) { return waits.get() == reader; });
      if (std::erase(at.reading, reader) == 0) return;
      if (!at.waiting.empty()) {
        next = std::move(at.waiting.front());
        at.waiting.pop_front();
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

  const OnRead on_read_;  // may be null
  std::mutex mutex_;
  std::unordered_map<std::string, Peer> peers_;  // those with readers
};

}  // namespace h2o
