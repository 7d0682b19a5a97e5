// The TCP connections of clients and workers.  The coordinator accepts them
// itself and hands them to gRPC, because gRPC 1.51 stops listening for good
// when the system has no descriptor left, takes any number of connections, and
// keeps any number of bytes of messages that are not whole.
//
//   accept -> at most max_connections -> its first bytes (Greetings) -> gRPC
//          -> bytes that came, beside messages that were taken
//          -> reads given up, or cut
//
// With max_connections open, a new one takes the place of the oldest that never
// sent a message; without such it is closed at once.
//
// Threads  any thread may call the methods.  One thread of its own accepts and
//          watches.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/host_port.h"
#include "coordinator/greetings.h"
#include "coordinator/unfinished_messages.h"

namespace h2o {

class Connections {
 public:
  // Takes over the descriptor of a new connection.
  using Taker = std::function<void(int fd)>;

  // Binds `where`; port 0 becomes the port that was bound.  A wildcard host
  // takes both families.  `clock` must outlive this object.
  // Errors: UNAVAILABLE naming the address and what is wrong with it;
  // INVALID_ARGUMENT for a name of something else than TCP (unix:1).
  static absl::StatusOr<std::unique_ptr<Connections>> Listen(
      HostPort* where, const UnfinishedMessages::Limits& limits,
      const Clock* clock);
  ~Connections();

  // Gives up the messages that are being read from a connection, which hold too
  // much.  `peer` is of KeyOfPeer.
  using GiveUp = std::function<void(const std::string& peer)>;

  struct Options {
    int max_connections = 1024;
    Greetings::Options greetings;
    // A connection was refused or cut.  May be null.
    std::function<void()> on_refused;
  };

  // Accepts from now on, until Stop.  Called once.
  void Start(const Options& options, Taker taker, GiveUp give_up);
  // Returns when no connection is handed on any more.
  void Stop();

  // `peer` is a connection's name in gRPC (ServerContext::peer).
  //
  // Reads of a message that were begun (1) or have ended (-1).
  void Read(const std::string& peer, int change);
  // A read of a message ended without one.  Called before Read(peer, -1).
  void Lose(const std::string& peer);
  // A message of `bytes` was taken.
  void Take(const std::string& peer, int64_t bytes);

  int num_open() const;

 private:
  class Impl;
  explicit Connections(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace h2o
