// Connections whose first bytes have not come yet.  They cost a descriptor and
// nothing else: gRPC gets a connection once it has begun to speak HTTP/2 or
// TLS, and TLS handshakes begin at a bounded rate.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
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
  bool Has(int fd) const { return places_.contains(fd); }
  // Looks at what has come, which stays where it is.  `left`: the other end has
  // closed.
  void Look(int fd, bool left);
  // Closes it.
  void Remove(int fd);

  // Those that wait no more, in the order in which they came: to be handed on,
  // or to be closed.
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
  void Recognise(Waiting* waiting) const;
  bool TakeTurn();

  const Options options_;
  std::map<uint64_t, Waiting> waiting_;       // in the order in which they came
  std::unordered_map<int, uint64_t> places_;  // in it, by descriptor
  uint64_t last_ = 0;
  double filled_;  // when turns_ was reckoned
  double turns_;   // handshakes that may begin now
};

}  // namespace h2o
