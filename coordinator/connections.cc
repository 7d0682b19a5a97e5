// Accepts, counts, watches and cuts TCP connections.
#include "coordinator/connections.h"

#include <errno.h>
#include <linux/tcp.h>
#include <malloc.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/limited_log.h"
#include "coordinator/listen_sockets.h"
#include "coordinator/peer_address.h"
#include "parallel/unique_fd.h"

namespace h2o {
namespace {

// How often deadlines are looked at, and sockets that gRPC has closed.
constexpr int kSweepMs = 100;

// How often bytes of connections are counted: of those that hold unfinished
// messages, and of the others, so many at a time.  Messages are not waited for:
// they come thousands of times a second, and each time that this thread woke,
// it would take a core from a rank or from gRPC.
constexpr int kOwingMs = 1, kCountMs = 20, kCountsAtATime = 128;

// Without descriptors, how long to wait for some.
constexpr double kPauseSeconds = 0.1;

// A connection may be silent for as long before it makes room for another.
constexpr double kSilentSeconds = 1;

// Bytes that came over a socket, and that went and were acknowledged.
struct Counters {
  int64_t came = 0, went = 0;
};
std::optional<Counters> CountersOf(int fd) {
  tcp_info info;
  socklen_t length = sizeof(info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
      length < offsetof(tcp_info, tcpi_bytes_received) + sizeof(uint64_t)) {
    return std::nullopt;
  }
  return Counters{static_cast<int64_t>(info.tcpi_bytes_received),
                  static_cast<int64_t>(info.tcpi_bytes_acked)};
}

void Watch(int poll, int operation, int fd, uint32_t what) {
  epoll_event event = {.events = what, .data = {.fd = fd}};
  epoll_ctl(poll, operation, fd, &event);
}

// Listening sockets in an epoll set.
class Listeners {
 public:
  explicit Listeners(std::vector<UniqueFd> sockets)
      : sockets_(std::move(sockets)) {}

  bool Has(int fd) const {
    return std::any_of(sockets_.begin(), sockets_.end(),
                       [fd](const UniqueFd& s) { return s.get() == fd; });
  }
  void Watch(int poll, int operation, uint32_t what) const {
    for (const UniqueFd& fd : sockets_) {
      h2o::Watch(poll, operation, fd.get(), what);
    }
  }
  void Close() { sockets_.clear(); }

 private:
  std::vector<UniqueFd> sockets_;
};

}  // namespace

// ---- The thread that accepts and watches

class Connections::Impl {
 public:
  Impl(std::vector<UniqueFd> listeners,
       const UnfinishedMessages::Limits& limits, const Clock* clock)
      : clock_(clock),
        log_(clock),
        listeners_(std::move(listeners)),
        poll_(epoll_create1(EPOLL_CLOEXEC)),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        unfinished_(limits) {}
  ~Impl() { Stop(); }

  void Start(const Options& options, Taker taker, GiveUp give_up) {
    options_ = options;
    greetings_.emplace(options.greetings, clock_->Now());
    taker_ = std::move(taker);
    give_up_ = std::move(give_up);
    Watch(poll_.get(), EPOLL_CTL_ADD, wake_.get(), EPOLLIN);
    listeners_.Watch(poll_.get(), EPOLL_CTL_ADD, EPOLLIN);
    thread_ = std::thread([this] { Run(); });
  }

  void Stop() {
    if (!thread_.joinable()) return;
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = write(wake_.get(), &one, sizeof(one));
    thread_.join();
    listeners_.Close();
    greetings_.reset();
  }

  void Read(const std::string& peer, int change) {
    std::lock_guard lock(mutex_);
    if (const auto fd = Find(peer)) unfinished_.Read(*fd, change);
  }
  void Lose(const std::string& peer) {
    std::lock_guard lock(mutex_);
    if (const auto fd = Find(peer)) unfinished_.GiveUpReads(*fd, clock_->Now());
  }
  void Take(const std::string& peer, int64_t bytes) {
    std::lock_guard lock(mutex_);
    if (const auto fd = Find(peer)) unfinished_.Take(*fd, bytes);
  }
  int num_open() const {
    std::lock_guard lock(mutex_);
    return static_cast<int>(open_.size());
  }

 private:
  struct Connection {
    PeerAddress address;
    std::string key;
    double opened = 0;
  };

  void Run() {
    epoll_event events[64];
    using Steady = std::chrono::steady_clock;
    Steady::time_point swept = Steady::now(), counted = swept;
    while (true) {
      const int n =
          epoll_wait(poll_.get(), events, std::size(events), WaitMs());
      for (int i = 0; i < n; ++i) {
        const int fd = events[i].data.fd;
        if (fd == wake_.get()) return;
        if (listeners_.Has(fd)) {
          AcceptAll(fd);
        } else if (greetings_->Has(fd)) {
          constexpr uint32_t kLeft = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
          greetings_->Look(fd, (events[i].events & kLeft) != 0);
        }
      }
      const double now = clock_->Now();
      HandOn(now);
      if (paused_until_ > 0 && now >= paused_until_) Resume();
      const Steady::time_point looks = Steady::now();
      if (looks - swept >= std::chrono::milliseconds(kSweepMs)) {
        swept = looks;
        Sweep();
      }
      if (looks - counted >= std::chrono::milliseconds(kCountMs)) {
        counted = looks;
        CountSome();
      }
      CountOwing();
      CutCulprits(now);
    }
  }

  int WaitMs() const {
    std::lock_guard lock(mutex_);
    if (!unfinished_.Owing().empty()) return kOwingMs;
    return open_.empty() ? kSweepMs : kCountMs;
  }

  void Warn(const std::string& line) { log_.Add(LogLevel::kWarning, "", line); }
  void Refuse(const std::string& line) {
    Warn(line);
    if (options_.on_refused) options_.on_refused();
  }

  // ---- New connections

  void AcceptAll(int listener) {
    while (true) {
      PeerAddress address;
      UniqueFd fd(accept4(listener, address.get(), &address.length,
                          SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd.valid()) {
        Admit(std::move(fd), address);
        continue;
      }
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
          errno == ENOMEM) {
        Warn(absl::StrCat("cannot accept connections: ", strerror(errno),
                          "; tries again"));
        return Pause();
      }
      // The connection is gone already, or a signal came.
    }
  }

  // A listener that cannot accept would wake us without end.
  void Pause() {
    paused_until_ = clock_->Now() + kPauseSeconds;
    listeners_.Watch(poll_.get(), EPOLL_CTL_MOD, 0);
  }
  void Resume() {
    paused_until_ = 0;
    listeners_.Watch(poll_.get(), EPOLL_CTL_MOD, EPOLLIN);
  }
  void Admit(UniqueFd fd, const PeerAddress& address) {
    const double now = clock_->Now();
    if (num_open() >= options_.max_connections) Sweep();
    if (num_open() >= options_.max_connections && !MakeRoom(now)) {
      Refuse(absl::StrCat("refused a connection from ", address.Key(), ": ",
                          options_.max_connections,
                          " are open, the most (--max-connections)"));
      return;
    }
    {
      std::lock_guard lock(mutex_);
      Forget(fd.get());  // gRPC has closed an old one of this number
      Connection connection = {address, address.Key(), now};
      by_key_[connection.key] = fd.get();
      open_[fd.get()] = std::move(connection);
      unfinished_.Open(fd.get());
    }
    Watch(poll_.get(), EPOLL_CTL_ADD, fd.get(), EPOLLIN | EPOLLRDHUP | EPOLLET);
    greetings_->Add(std::move(fd), now);
  }

  // Gives gRPC the connections that have begun to speak as they should.
  void HandOn(double now) {
    for (Greetings::Due& due : greetings_->TakeDue(now)) {
      const int fd = due.fd.get();
      std::string key;
      {
        std::lock_guard lock(mutex_);
        key = open_[fd].key;
        due.left || !due.refusal.empty() ? Forget(fd) : Count(fd);
      }
      if (due.left) continue;
      if (due.refusal.empty()) {
        Watch(poll_.get(), EPOLL_CTL_DEL, fd, 0);
        taker_(due.fd.Release());
      } else {
        Refuse(
            absl::StrCat("refused the connection of ", key, ": ", due.refusal));
      }
    }
  }

  // Cuts the oldest connection that never sent a message.
  bool MakeRoom(double now) {
    int oldest = -1;
    {
      std::lock_guard lock(mutex_);
      double opened = now - kSilentSeconds;
      for (const auto& [fd, connection] : open_) {
        if (connection.opened <= opened && unfinished_.IsSilent(fd)) {
          opened = connection.opened;
          oldest = fd;
        }
      }
    }
    if (oldest < 0) return false;
    Cut(oldest, "it sent no message, and another needs its place");
    return true;
  }

  // ---- Open connections

  // The next ones in turn.
  void CountSome() {
    std::lock_guard lock(mutex_);
    auto next = open_.upper_bound(last_counted_);
    const size_t most = std::min<size_t>(open_.size(), kCountsAtATime);
    for (size_t i = 0; i < most; ++i, ++next) {
      if (next == open_.end()) next = open_.begin();
      last_counted_ = next->first;
      if (!greetings_->Has(last_counted_)) Count(last_counted_);
    }
  }
  void CountOwing() {
    std::lock_guard lock(mutex_);
    for (int fd : unfinished_.Owing()) Count(fd);
  }

  void Sweep() {
    std::vector<int> all;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [fd, connection] : open_) all.push_back(fd);
    }
    for (int fd : all) {
      std::lock_guard lock(mutex_);  // others need not wait for all
      const auto it = open_.find(fd);
      if (it == open_.end()) continue;
      if (greetings_->Has(fd)) continue;
      if (!IsConnectedTo(fd, it->second.address)) Forget(fd);
    }
    if (std::exchange(trim_, false)) malloc_trim(0);
  }

  void CutCulprits(double now) {
    std::vector<UnfinishedMessages::Culprit> culprits;
    {
      std::lock_guard lock(mutex_);
      culprits = unfinished_.Culprits(now);
    }
    for (const UnfinishedMessages::Culprit& culprit : culprits) {
      if (!culprit.at_once || !GiveUpReads(culprit.connection)) {
        Cut(culprit.connection, culprit.why);
      }
      trim_ = true;  // what gRPC frees goes back to the system
    }
  }

  bool GiveUpReads(int fd) {
    std::string key;
    {
      std::lock_guard lock(mutex_);
      const auto it = open_.find(fd);
      if (it == open_.end() || !unfinished_.GiveUpReads(fd, clock_->Now())) {
        return false;
      }
      key = it->second.key;
    }
    give_up_(key);
    return true;
  }

  // Ends a connection.  gRPC then closes it and frees what it held.  Only this
  // thread opens sockets, so no other one can have taken its number.
  void Cut(int fd, const std::string& why) {
    std::string key;
    {
      std::lock_guard lock(mutex_);
      const auto it = open_.find(fd);
      if (it == open_.end()) return;
      key = it->second.key;
      if (IsConnectedTo(fd, it->second.address)) shutdown(fd, SHUT_RDWR);
      Forget(fd);
    }
    greetings_->Remove(fd);
    Refuse(absl::StrCat("cut the connection of ", key, ": ", why));
  }

  // REQUIRES (all): mutex_ is held.
  void Count(int fd) {
    if (const auto bytes = CountersOf(fd)) {
      unfinished_.Count(fd, bytes->came, bytes->went, clock_->Now());
    }
  }
  void Forget(int fd) {
    const auto it = open_.find(fd);
    if (it == open_.end()) return;
    if (const auto key = by_key_.find(it->second.key);
        key != by_key_.end() && key->second == fd) {
      by_key_.erase(key);
    }
    unfinished_.Close(fd);
    open_.erase(it);
  }
  std::optional<int> Find(const std::string& peer) const {
    const auto it = by_key_.find(KeyOfPeer(peer));
    if (it == by_key_.end()) return std::nullopt;
    return it->second;
  }

  const Clock* const clock_;
  LimitedLog log_;
  Options options_;
  Taker taker_;
  GiveUp give_up_;
  Listeners listeners_;
  const UniqueFd poll_, wake_;
  // Of the thread:
  std::optional<Greetings> greetings_;  // while it runs
  double paused_until_ = 0;             // 0: it accepts
  bool trim_ = false;                   // memory was freed
  int last_counted_ = -1;               // descriptor

  mutable std::mutex mutex_;        // guards what follows
  std::map<int, Connection> open_;  // by descriptor
  std::unordered_map<std::string, int> by_key_;
  UnfinishedMessages unfinished_;

  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<Connections>> Connections::Listen(
    HostPort* where, const UnfinishedMessages::Limits& limits,
    const Clock* clock) {
  absl::StatusOr<std::vector<UniqueFd>> listeners = ListenAtAll(where);
  if (!listeners.ok()) return listeners.status();
  return std::unique_ptr<Connections>(new Connections(
      std::make_unique<Impl>(*std::move(listeners), limits, clock)));
}

Connections::Connections(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Connections::~Connections() = default;
void Connections::Start(const Options& options, Taker taker, GiveUp give_up) {
  impl_->Start(options, std::move(taker), std::move(give_up));
}
void Connections::Stop() { impl_->Stop(); }
void Connections::Read(const std::string& peer, int change) {
  impl_->Read(peer, change);
}
void Connections::Lose(const std::string& peer) { impl_->Lose(peer); }
void Connections::Take(const std::string& peer, int64_t bytes) {
  impl_->Take(peer, bytes);
}
int Connections::num_open() const { return impl_->num_open(); }

}  // namespace h2o
