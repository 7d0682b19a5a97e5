// The ledger of messages that have begun to come and are not whole.  gRPC keeps
// such a message in memory, whatever its size, and looks at the size when the
// message is whole.  So the coordinator compares the bytes that came over each
// connection with the messages that were taken from it, and cuts connections
// that owe too much.
//
//   unfinished bytes = bytes that came - bytes of messages that were taken
//                      - bytes that went (answers to what is no message)
//
// and never below zero: what comes beside messages (settings, headers, windows)
// is answered by about as much.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace h2o {

// Threads  not thread-safe.
class UnfinishedMessages {
 public:
  struct Limits {
    // Most bytes of a message.  A connection may hold one for each message that
    // is being read from it, and one more, which gRPC reads unasked.
    int64_t message = 4 << 20;
    // Most bytes of all connections that hold some for longer than a second.
    int64_t all = 16 << 20;
    // How long a connection may hold more than kSmall.
    double seconds = 20;
  };
  static constexpr int64_t kSmall = 64 << 10;
  // Reads of a connection are given up so often at once, and so often a second.
  static constexpr double kGiveUps = 4, kGiveUpsASecond = 0.1;

  explicit UnfinishedMessages(const Limits& limits) : limits_(limits) {}

  void Open(int connection) { connections_[connection] = {}; }
  void Close(int connection) { connections_.erase(connection); }

  // What the socket has counted since it was opened.
  // REQUIRES: it was read after the last Take of this connection.
  void Count(int connection, int64_t came, int64_t went, double now);
  // Reads of a message that were begun (1) or have ended (-1).
  void Read(int connection, int change);
  // A message of `bytes` was taken.
  void Take(int connection, int64_t bytes);
  // Messages that were being read will not become whole, because it was given
  // up or the client left: what came for them is owed no more, nor what is on
  // its way.  Returns false, and then changes nothing, if none is read or this
  // came too often before.
  bool GiveUpReads(int connection, double now);
  // Those that hold more than kSmall.  They must be counted again from time to
  // time, even if nothing comes.
  std::vector<int> Owing() const;
  // Whether a message was ever taken.
  bool IsSilent(int connection) const;

  int64_t total() const;  // bytes that are unfinished

  // Connections to be cut at the time `now`, and why.
  struct Culprit {
    int connection;
    std::string why;
    bool at_once = false;  // it holds too much, whatever the time
  };
  std::vector<Culprit> Culprits(double now) const;

 private:
  struct Connection {
    int reading = 0;
    int64_t taken = 0;
    int64_t forgiven = 0;
    int64_t late = 0;  // bytes on their way for reads that were given up
    double give_ups = kGiveUps;  // that are left
    double gave_up = 0;          // when they were counted
    int64_t unfinished = 0;
    // Since when it holds more than kSmall and no message was taken; -1: it
    // does not.
    double since = -1;
  };

  const Limits limits_;
  std::map<int, Connection> connections_;
};

}  // namespace h2o
