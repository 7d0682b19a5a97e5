// Tests accepting, counting and cutting with sockets of this process.
#include "coordinator/connections.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/peer_address.h"
#include "parallel/unique_fd.h"
#include "tests/parallel/dial_port.h"

namespace h2o {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

class FakeClock final : public Clock {
 public:
  double Now() const override { return now.load(); }
  std::atomic<double> now{100};
};

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

// Whether the other end has closed.
bool IsCut(const UniqueFd& fd) {
  char byte;
  const ssize_t n = recv(fd.get(), &byte, 1, MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN);
}

std::string PeerOf(const UniqueFd& fd) {
  sockaddr_in address = {};
  socklen_t length = sizeof(address);
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
  return "ipv4:127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

// A server that reads what comes and keeps it to itself, as gRPC does.
class ConnectionsTest : public ::testing::Test {
 protected:
  void Start(int max_connections,
             const UnfinishedMessages::Limits& limits = {}) {
    HostPort where = {.host = "127.0.0.1"};
    connections_ = Connections::Listen(&where, limits, &clock_).value();
    port_ = where.port;
    ASSERT_GT(port_, 0);
    connections_->Start(
        {.max_connections = max_connections},
        [this](int fd) {
          std::lock_guard lock(mutex_);
          threads_.emplace_back([this, fd] { ReadAll(fd); });
        },
        [this](const std::string& peer) {
          std::lock_guard lock(mutex_);
          given_up_.push_back(peer);
        });
  }
  ~ConnectionsTest() override {
    if (connections_ != nullptr) connections_->Stop();
    for (std::thread& thread : threads_) thread.join();
  }

  void ReadAll(int fd) {
    fcntl(fd, F_SETFL, 0);
    std::vector<char> block(1 << 16);
    while (true) {
      const ssize_t n = read(fd, block.data(), block.size());
      if (n <= 0) break;
      read_ += n;
    }
    shutdown(fd, SHUT_RDWR);
    close(fd);
  }
  static bool Send(const UniqueFd& fd, int64_t bytes) {
    const std::vector<char> block(1 << 16);
    for (; bytes > 0; bytes -= static_cast<int64_t>(block.size())) {
      if (send(fd.get(), block.data(), block.size(), MSG_NOSIGNAL) < 0) {
        return false;
      }
    }
    return true;
  }
  bool BecomesOpen(int n) {
    return Eventually([&] { return connections_->num_open() == n; });
  }

  FakeClock clock_;
  std::unique_ptr<Connections> connections_;
  int port_ = 0;
  std::atomic<int64_t> read_ = 0;
  std::mutex mutex_;
  std::vector<std::string> given_up_;
  std::vector<std::thread> threads_;
};

TEST_F(ConnectionsTest, CountsThoseThatAreOpen) {
  Start(10);
  {
    const UniqueFd a = DialPort(port_), b = DialPort(port_);
    EXPECT_TRUE(BecomesOpen(2));
  }
  EXPECT_TRUE(BecomesOpen(0));
}

TEST_F(ConnectionsTest, SilentOnesMakeRoomAndOthersDoNot) {
  Start(2);
  const UniqueFd talks = DialPort(port_);
  ASSERT_TRUE(BecomesOpen(1));
  connections_->Take(PeerOf(talks), 10);
  const UniqueFd silent = DialPort(port_);
  ASSERT_TRUE(BecomesOpen(2));
  const UniqueFd too_soon = DialPort(port_);
  EXPECT_TRUE(Eventually([&] { return IsCut(too_soon); }));
  EXPECT_FALSE(IsCut(silent));
  clock_.now = clock_.now + 2;
  const UniqueFd next = DialPort(port_);
  EXPECT_TRUE(Eventually([&] { return IsCut(silent); }));
  EXPECT_FALSE(IsCut(talks));
  EXPECT_FALSE(IsCut(next));
}

TEST_F(ConnectionsTest, MessagesWithoutEndAreCut) {
  Start(10, {.message = kMiB, .all = 100 * kMiB});
  const UniqueFd talks = DialPort(port_), never_ends = DialPort(port_);
  ASSERT_TRUE(BecomesOpen(2));
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(Send(talks, kMiB));
    ASSERT_TRUE(Eventually([&] { return read_ == (i + 1) * kMiB; }));
    connections_->Take(PeerOf(talks), kMiB);
  }
  Send(never_ends, 20 * kMiB);
  EXPECT_TRUE(Eventually([&] { return IsCut(never_ends); }));
  EXPECT_FALSE(IsCut(talks));
  EXPECT_TRUE(BecomesOpen(1));
}

TEST_F(ConnectionsTest, ReadsThatHoldTooMuchAreGivenUpFirst) {
  Start(10, {.message = kMiB, .all = 100 * kMiB});
  const UniqueFd large = DialPort(port_);
  ASSERT_TRUE(BecomesOpen(1));
  connections_->Read(PeerOf(large), 1);
  ASSERT_TRUE(Send(large, 5 * kMiB));
  const std::string key = KeyOfPeer(PeerOf(large));
  EXPECT_TRUE(Eventually([&] {
    std::lock_guard lock(mutex_);
    return !given_up_.empty() && given_up_[0] == key;
  }));
  EXPECT_FALSE(IsCut(large));
  EXPECT_TRUE(Eventually([&] {  // it does not stop
    return !Send(large, kMiB) || IsCut(large);
  }));
}

TEST_F(ConnectionsTest, AMessageMustEndInTime) {
  Start(10, {.seconds = 20});
  const UniqueFd slow = DialPort(port_);
  ASSERT_TRUE(Send(slow, kMiB));
  std::this_thread::sleep_for(250ms);
  EXPECT_FALSE(IsCut(slow));
  clock_.now = clock_.now + 30;
  EXPECT_TRUE(Eventually([&] { return IsCut(slow); }));
}

// gRPC 1.51 would never accept again.
TEST_F(ConnectionsTest, AcceptsAgainWhenDescriptorsComeFree) {
  Start(1000);
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const UniqueFd first(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const rlimit few = {.rlim_cur = static_cast<rlim_t>(first.get()) + 2,
                      .rlim_max = limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const UniqueFd client = DialPort(port_);  // takes the last descriptor
  ASSERT_TRUE(client.valid());
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(connections_->num_open(), 0);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  clock_.now = clock_.now + 1;
  EXPECT_TRUE(BecomesOpen(1));
}

TEST(PeerAddress, IsTheSameAsGrpcsName) {
  PeerAddress v4, mapped;
  auto* four = reinterpret_cast<sockaddr_in*>(v4.get());
  four->sin_family = AF_INET;
  four->sin_port = htons(5000);
  four->sin_addr.s_addr = htonl(0x0a000001);
  EXPECT_EQ(v4.Key(), KeyOfPeer("ipv4:10.0.0.1:5000"));
  auto* six = reinterpret_cast<sockaddr_in6*>(mapped.get());
  six->sin6_family = AF_INET6;
  six->sin6_port = htons(5000);
  inet_pton(AF_INET6, "::ffff:10.0.0.1", &six->sin6_addr);
  EXPECT_EQ(mapped.Key(), v4.Key());
  inet_pton(AF_INET6, "fe80::1", &six->sin6_addr);
  EXPECT_EQ(mapped.Key(), KeyOfPeer("ipv6:%5Bfe80::1%5D:5000"));
  EXPECT_EQ(mapped.Key(), KeyOfPeer("ipv6:[fe80::1]:5000"));
  EXPECT_EQ(mapped.Key(), KeyOfPeer("ipv6:%5Bfe80::1%25eth0%5D:5000"));
  EXPECT_EQ(KeyOfPeer("unix:"), "");
}

TEST(Connections, SayWhyTheyCannotListen) {
  FakeClock clock;
  const auto listen = [&](HostPort where) {
    return Connections::Listen(&where, {}, &clock).status();
  };
  HostPort where = {.host = "127.0.0.1"};
  const auto first = Connections::Listen(&where, {}, &clock).value();
  EXPECT_EQ(
      std::string(listen(where).message()),
      "cannot listen on " + where.ToString() + ": Address already in use");
  EXPECT_THAT(std::string(listen({"192.0.2.1", 1}).message()),
              HasSubstr("Cannot assign"));
  EXPECT_EQ(listen({"unix", 1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(listen({"no.such.host.invalid", 1}).ok());
}

TEST(Connections, AWildcardTakesBothFamilies) {
  FakeClock clock;
  for (const char* host : {"0.0.0.0", "::"}) {
    HostPort where = {.host = host};
    const auto connections = Connections::Listen(&where, {}, &clock).value();
    std::atomic<int> handed = 0;
    connections->Start(
        {.max_connections = 10},
        [&](int fd) {
          ++handed;
          close(fd);
        },
        nullptr);
    const UniqueFd v4 = DialPort(where.port);
    EXPECT_TRUE(Eventually([&] { return handed == 1; }));
    connections->Stop();
  }
}

}  // namespace
}  // namespace h2o
