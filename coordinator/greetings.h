// Connections whose first bytes have not come yet.  They cost a descriptor and
// nothing else: gRPC gets a connection once it has begun to speak HTTP/2 or
// TLS, and TLS handshakes begin at a bounded rate.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "parallel/unique_fd.h"

namespace h2o {

// Threads  not thread-safe.
class Greetings {
 public:
  enum class Kind {
    kAny,    // whatever comes; nothing is waited for
    kHttp2,  // the preface of HTTP/2 (RFC 9113, 3.4)
    kTls,    // the first record of a handshake (RFC 8446, 5.1)
  };
  struct Options {
    Kind kind = Kind::kAny;
    double seconds = 10;               // for the greeting to come
    double handshakes_per_second = 0;  // of TLS; as many may begin at once
  };

  Greetings(const Options& options, double now)
      : options_(options),
        filled_(now),
        turns_(options.handshakes_per_second) {}

  void Add(UniqueFd fd, double now);
  bool Has(int fd) const { return waiting_.contains(fd); }
  // Looks at what has come, which stays where it is.
  void Look(int fd);
  // Closes it.
  void Remove(int fd) { waiting_.erase(fd); }

  // Those that wait no more: to be handed on, or to be closed.
  struct Due {
    UniqueFd fd;
    std::string refusal;  // why it is closed; empty: hand it on
    bool left = false;    // it has closed itself, as probes do
  };
  std::vector<Due> TakeDue(double now);

 private:
  struct Waiting {
    UniqueFd fd;
    double since = 0;
    bool greeted = false, left = false;
    std::string refusal = {};
  };
  bool TakeTurn();

  const Options options_;
  std::map<int, Waiting> waiting_;
  double filled_;  // when turns_ was reckoned
  double turns_;   // handshakes that may begin now
};

}  // namespace h2o
