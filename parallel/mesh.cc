// Dials and accepts the TCP connections between the ranks of a group.
#include "parallel/mesh.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <list>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/host_port.h"
#include "base/running_clock.h"
#include "base/status_macros.h"
#include "parallel/barrier.h"
#include "parallel/mesh_proof.h"

namespace h2o {
namespace {

static_assert(std::endian::native == std::endian::little,
              "messages are sent as they lie in memory");

// ---- Addresses

struct AddressesDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, AddressesDeleter>;

absl::StatusOr<Addresses> Resolve(const HostPort& where, int flags) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(
      where.host.c_str(), std::to_string(where.port).c_str(), &hints, &list);
  if (error != 0) {
    return absl::UnavailableError(absl::StrCat(
        "host '", where.host, "' is not known: ", gai_strerror(error)));
  }
  return Addresses(list);
}

// ---- The first words on a connection

constexpr uint64_t kMagic = 0x6873656d6f326831;  // "1h2omesh"
constexpr uint32_t kVersion = 2;

enum Verdict : uint32_t {
  kCall = 0,       // the caller's first word
  kWelcome = 1,    // the listener's last one
  kChallenge = 6,  // the listener's first one, with its proof
  kProof = 7,      // the caller's proof
  kWrongVersion = 2,
  kWrongNonce = 3,
  kWrongSize = 4,
  kWrongRank = 5,
  kWrongProof = 8,
};

const char* Explain(uint32_t verdict) {
  switch (verdict) {
    case kWrongVersion:
      return "it speaks another version of the protocol";
    case kWrongNonce:
      return "it belongs to another formation of the group";
    case kWrongSize:
      return "it believes in another number of ranks";
    case kWrongRank:
      return "it has another rank, or this rank is taken";
    case kWrongProof:
      return "it does not know the secret of the group";
    default:
      return "its answer makes no sense";
  }
}

struct Hello {
  uint64_t magic = kMagic;
  uint32_t version = kVersion;
  uint32_t verdict = kCall;
  uint64_t nonce = 0;
  uint32_t from_rank = 0;
  uint32_t to_rank = 0;
  uint32_t size = 0;
  uint32_t reserved = 0;
  MeshChallenge challenge = {};
  MeshProof proof = {};
};
static_assert(sizeof(Hello) == 88);

// A Hello while its bytes arrive.
struct Incoming {
  Hello hello;
  size_t bytes = 0;

  enum class State { kMore, kComplete, kLost };
  State Read(int fd) {
    const ssize_t n = recv(fd, reinterpret_cast<char*>(&hello) + bytes,
                           sizeof(hello) - bytes, MSG_DONTWAIT);
    if (n > 0) bytes += n;
    if (bytes == sizeof(hello)) return State::kComplete;
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) {
      return State::kMore;
    }
    return State::kLost;
  }
};

// A new connection has room for one Hello.  A partial write means it is lost.
bool Send(int fd, const Hello& hello) {
  return send(fd, &hello, sizeof(hello), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(sizeof(hello));
}

void SetNoDelay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

// ---- Forming

// How long a caller may take to send its Hello.
constexpr double kHelloSeconds = 2;
constexpr double kRetrySeconds = 0.05;
// Beyond this number of silent callers, the oldest connection is closed.
constexpr size_t kMaxCallers = 256;

class Former {
 public:
  Former(MeshListener listener, const MeshOptions& options)
      : listener_(std::move(listener)),
        options_(options),
        deadline_(Now() + options.connect_timeout_seconds) {
    mesh_.sockets.resize(options.size);
    mesh_.addresses = options.addresses;
    for (int k = 0; k < options.rank; ++k) dials_.push_back({.rank = k});
  }

  absl::StatusOr<Mesh> Run() {
    while (true) {
      const double now = Now();
      for (Dial& dial : dials_) {
        if (dial.state == Dial::kIdle && now >= dial.next) Start(&dial);
      }
      const std::vector<int> missing = Missing();
      if (missing.empty()) return std::move(mesh_);
      if (now >= deadline_) return TooLate(missing);
      H2O_RETURN_IF_ERROR(WaitAndServe(now));
    }
  }

 private:
  // A connection from this rank to a lower one.
  struct Dial {
    enum State { kIdle, kConnecting, kAwaitingAnswer, kAwaitingWelcome, kDone };
    int rank;
    State state = kIdle;
    UniqueFd fd = {};
    double next = 0;   // when kIdle: not before
    int attempts = 0;  // which of the host's addresses to try
    Incoming answer = {};
    MeshTalk talk = {};
    std::string problem = {};  // of the last attempt
  };
  // A connection whose proof has not arrived yet.
  struct Caller {
    UniqueFd fd;
    double deadline;
    Incoming call = {};                 // its call, and then its proof
    std::optional<MeshTalk> talk = {};  // once it has called
  };

  std::vector<int> Missing() const {
    std::vector<int> missing;
    for (int k = 0; k < options_.size; ++k) {
      if (k != options_.rank && !mesh_.sockets[k].valid()) missing.push_back(k);
    }
    return missing;
  }

  absl::Status TooLate(const std::vector<int>& missing) const {
    std::vector<std::string> parts;
    for (int k : missing) {
      std::string problem = "did not call";
      if (k < options_.rank) {
        problem =
            dials_[k].problem.empty() ? "did not answer" : dials_[k].problem;
      }
      parts.push_back(absl::StrCat(mesh_.NameOf(k), ": ", problem));
    }
    return absl::UnavailableError(absl::StrCat(
        "rank ", options_.rank, " waited ", options_.connect_timeout_seconds,
        " s to connect to ", absl::StrJoin(parts, "; ")));
  }

  void Retry(Dial* dial, const std::string& problem) {
    dial->problem = problem;
    dial->fd.Close();
    dial->state = Dial::kIdle;
    dial->next = Now() + kRetrySeconds;
    ++dial->attempts;
  }

  void Start(Dial* dial) {
    const auto where = ParseHostPort(options_.addresses[dial->rank]);
    if (!where.ok()) return Retry(dial, std::string(where.status().message()));
    const auto list = Resolve(*where, 0);
    if (!list.ok()) return Retry(dial, std::string(list.status().message()));
    int count = 0;
    for (const addrinfo* a = list->get(); a != nullptr; a = a->ai_next) ++count;
    const addrinfo* address = list->get();
    for (int i = dial->attempts % count; i > 0; --i) address = address->ai_next;
    dial->fd = UniqueFd(socket(address->ai_family,
                               SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!dial->fd.valid()) return Retry(dial, std::strerror(errno));
    SetNoDelay(dial->fd.get());
    if (connect(dial->fd.get(), address->ai_addr, address->ai_addrlen) == 0 ||
        errno == EINPROGRESS) {
      dial->state = Dial::kConnecting;
    } else {
      Retry(dial, std::strerror(errno));
    }
  }

  Hello MakeHello(uint32_t verdict, int to_rank) const {
    return {.verdict = verdict,
            .nonce = options_.nonce,
            .from_rank = static_cast<uint32_t>(options_.rank),
            .to_rank = static_cast<uint32_t>(to_rank),
            .size = static_cast<uint32_t>(options_.size)};
  }

  // What is wrong with `hello`, or kWelcome.
  Verdict Judge(const Hello& hello) const {
    if (hello.version != kVersion) return kWrongVersion;
    if (hello.nonce != options_.nonce) return kWrongNonce;
    if (hello.size != static_cast<uint32_t>(options_.size)) return kWrongSize;
    if (hello.to_rank != static_cast<uint32_t>(options_.rank)) {
      return kWrongRank;
    }
    return kWelcome;
  }

  void Connected(Dial* dial) {
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(dial->fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) return Retry(dial, std::strerror(error));
    Hello call = MakeHello(kCall, dial->rank);
    call.challenge = NewMeshChallenge();
    dial->talk = TalkOf(call);
    if (!Send(dial->fd.get(), call)) {
      return Retry(dial, "the connection was closed");
    }
    dial->answer = {};
    dial->state = Dial::kAwaitingAnswer;
  }

  void Answered(Dial* dial) {
    switch (dial->answer.Read(dial->fd.get())) {
      case Incoming::State::kMore:
        return;
      case Incoming::State::kLost:
        return Retry(dial, "the connection was closed without an answer");
      case Incoming::State::kComplete:
        break;
    }
    const Hello hello = std::exchange(dial->answer, {}).hello;
    if (hello.magic != kMagic) return Retry(dial, "it is no rank of a group");
    Verdict verdict = Judge(hello);
    if (verdict == kWelcome && hello.from_rank != uint32_t(dial->rank)) {
      verdict = kWrongRank;
    }
    const bool proves = dial->state == Dial::kAwaitingAnswer;
    if (hello.verdict != (proves ? kChallenge : kWelcome)) {
      return Retry(dial, Explain(hello.verdict));
    }
    if (verdict != kWelcome) return Retry(dial, Explain(verdict));
    if (proves) return Prove(dial, hello);
    mesh_.sockets[dial->rank] = std::move(dial->fd);
    dial->state = Dial::kDone;
  }

  // Answers a listener that has proved that it knows the secret.
  void Prove(Dial* dial, const Hello& hello) {
    dial->talk.of_listener = hello.challenge;
    if (!IsEqual(hello.proof,
                 ProofOf(options_.secret, MeshEnd::kListener, dial->talk))) {
      return Retry(dial, Explain(kWrongProof));
    }
    Hello proof = MakeHello(kProof, dial->rank);
    proof.proof = ProofOf(options_.secret, MeshEnd::kCaller, dial->talk);
    if (!Send(dial->fd.get(), proof)) {
      return Retry(dial, "the connection was closed");
    }
    dial->state = Dial::kAwaitingWelcome;
  }

  static MeshTalk TalkOf(const Hello& call) {
    return {.nonce = call.nonce,
            .caller = call.from_rank,
            .listener = call.to_rank,
            .size = call.size,
            .of_caller = call.challenge};
  }

  // Returns true once this caller is accepted or refused.
  bool Serve(Caller* caller) {
    switch (caller->call.Read(caller->fd.get())) {
      case Incoming::State::kMore:
        return false;
      case Incoming::State::kLost:
        return true;
      case Incoming::State::kComplete:
        break;
    }
    const Hello hello = std::exchange(caller->call, {}).hello;
    const bool calls = !caller->talk;
    if (hello.magic != kMagic || hello.verdict != (calls ? kCall : kProof)) {
      return true;
    }
    Verdict verdict = Judge(hello);
    const uint32_t from = hello.from_rank;
    if (verdict == kWelcome &&
        (from <= uint32_t(options_.rank) || from >= uint32_t(options_.size) ||
         mesh_.sockets[from].valid())) {
      verdict = kWrongRank;
    }
    if (calls && verdict == kWelcome) return !Challenge(caller, hello);
    if (verdict == kWelcome &&
        (from != caller->talk->caller ||
         !IsEqual(hello.proof,
                  ProofOf(options_.secret, MeshEnd::kCaller, *caller->talk)))) {
      verdict = kWrongProof;
    }
    const bool sent = Send(caller->fd.get(), MakeHello(verdict, from));
    if (sent && verdict == kWelcome) {
      SetNoDelay(caller->fd.get());
      mesh_.sockets[from] = std::move(caller->fd);
    }
    return true;
  }

  // Returns false if the caller is gone.
  bool Challenge(Caller* caller, const Hello& call) const {
    caller->talk = TalkOf(call);
    caller->talk->of_listener = NewMeshChallenge();
    Hello hello = MakeHello(kChallenge, call.from_rank);
    hello.challenge = caller->talk->of_listener;
    hello.proof = ProofOf(options_.secret, MeshEnd::kListener, *caller->talk);
    return Send(caller->fd.get(), hello);
  }

  absl::Status Accept(double now) {
    while (true) {
      UniqueFd fd(accept4(listener_.fd(), nullptr, nullptr,
                          SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!fd.valid()) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
            errno == ENOBUFS) {
          return absl::ResourceExhaustedError(
              absl::StrCat("cannot take calls at ", listener_.address(), ": ",
                           std::strerror(errno)));
        }
        return absl::OkStatus();  // no connection waits (any more)
      }
      if (callers_.size() == kMaxCallers) callers_.pop_front();
      callers_.push_back({std::move(fd), now + kHelloSeconds});
    }
  }

  absl::Status WaitAndServe(double now) {
    // Find the next moment at which something is due.
    double until = deadline_;
    std::vector<pollfd> polls = {{listener_.fd(), POLLIN, 0}};
    for (const Dial& dial : dials_) {
      if (dial.state == Dial::kIdle) until = std::min(until, dial.next);
      const bool open = dial.state == Dial::kConnecting ||
                        dial.state == Dial::kAwaitingAnswer ||
                        dial.state == Dial::kAwaitingWelcome;
      const short events = dial.state == Dial::kConnecting ? POLLOUT : POLLIN;
      polls.push_back({open ? dial.fd.get() : -1, events, 0});
    }
    for (const Caller& caller : callers_) {
      until = std::min(until, caller.deadline);
      polls.push_back({caller.fd.get(), POLLIN, 0});
    }
    const int milliseconds = static_cast<int>(std::ceil(
        std::clamp(until - now, 0.0, RunningClock::kLookSeconds) * 1e3));
    if (poll(polls.data(), polls.size(), milliseconds) < 0 && errno != EINTR) {
      return absl::InternalError(absl::StrCat("poll: ", std::strerror(errno)));
    }
    now = Now();
    const pollfd* polled = &polls[1];
    for (Dial& dial : dials_) {
      if ((polled++)->revents == 0) continue;
      if (dial.state == Dial::kConnecting) {
        Connected(&dial);
      } else {
        Answered(&dial);
      }
    }
    for (auto it = callers_.begin(); it != callers_.end();) {
      const bool speaks = (polled++)->revents != 0;
      const bool done = speaks ? Serve(&*it) : now >= it->deadline;
      it = done ? callers_.erase(it) : std::next(it);
    }
    return polls[0].revents != 0 ? Accept(now) : absl::OkStatus();
  }

  double Now() const { return clock_.Now(); }

  const MeshListener listener_;
  const MeshOptions& options_;
  const SteadyClock steady_;
  const RunningClock clock_{&steady_};
  const double deadline_;
  Mesh mesh_;
  std::vector<Dial> dials_;  // by rank
  std::list<Caller> callers_;
};

absl::Status Validate(const MeshOptions& options) {
  if (options.size < 1 || options.size > kMaxRanks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a group has 1 to ", kMaxRanks, " ranks, not ", options.size));
  }
  if (options.rank < 0 || options.rank >= options.size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", options.rank, " of ", options.size,
                     ": ranks are 0 to size - 1"));
  }
  if (options.addresses.size() != size_t(options.size) ||
      options.host_ids.size() != size_t(options.size)) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.addresses.size(), " addresses and ", options.host_ids.size(),
        " host ids for ", options.size, " ranks: one each is needed"));
  }
  if (options.size > 1 && options.secret.size() != kMeshSecretBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the group's secret has ", options.secret.size(),
                     " bytes; it must have ", kMeshSecretBytes));
  }
  for (const std::string& address : options.addresses) {
    H2O_RETURN_IF_ERROR(ParseHostPort(address).status());
  }
  return absl::OkStatus();
}

// A socket bound to [::] shall accept IPv4 as well, whatever the system's
// default is.
bool TakesBothKinds(int fd, int family) {
  const int no = 0;
  return family != AF_INET6 ||
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no)) == 0;
}

}  // namespace

absl::StatusOr<MeshListener> MeshListener::Bind(std::string_view address) {
  H2O_ASSIGN_OR_RETURN(const HostPort where, ParseHostPort(address));
  H2O_ASSIGN_OR_RETURN(const Addresses list, Resolve(where, AI_PASSIVE));
  int error = 0;
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    UniqueFd fd(
        socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int one = 1;
    sockaddr_storage bound = {};
    socklen_t length = sizeof(bound);
    if (!fd.valid() ||
        setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        !TakesBothKinds(fd.get(), a->ai_family) ||
        bind(fd.get(), a->ai_addr, a->ai_addrlen) < 0 ||
        listen(fd.get(), 1024) < 0 ||
        getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) <
            0) {
      error = errno;
      continue;
    }
    // The port is at the same offset in both address structures.
    const int port =
        ntohs(reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
    return MeshListener(std::move(fd), HostPort{where.host, port}.ToString(),
                        port);
  }
  return absl::UnavailableError(absl::StrCat(
      "cannot listen at ", std::string(address), ": ", std::strerror(error)));
}

std::string Mesh::NameOf(int rank) const {
  return absl::StrCat("rank ", rank, " at ", addresses[rank]);
}

std::string Mesh::NamesOf(const std::vector<int>& ranks) const {
  return absl::StrJoin(ranks, ", ", [&](std::string* out, int rank) {
    out->append(NameOf(rank));
  });
}

std::vector<int> Mesh::Gone() const {
  std::vector<pollfd> polls;
  for (const UniqueFd& fd : sockets) {
    polls.push_back({fd.get(), POLLRDHUP, 0});
  }
  std::vector<int> gone;
  if (poll(polls.data(), polls.size(), 0) <= 0) return gone;
  for (size_t k = 0; k < polls.size(); ++k) {
    if (polls[k].revents != 0) gone.push_back(static_cast<int>(k));
  }
  return gone;
}

void Mesh::ShutDown() const {
  for (const UniqueFd& fd : sockets) {
    if (fd.valid()) shutdown(fd.get(), SHUT_RDWR);
  }
}

absl::StatusOr<Mesh> FormMesh(MeshListener listener,
                              const MeshOptions& options) {
  H2O_RETURN_IF_ERROR(Validate(options));
  return Former(std::move(listener), options).Run();
}

}  // namespace h2o
