// Tests who is handed on, and when.
#include "coordinator/greetings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace h2o {
namespace {

using ::testing::HasSubstr;
using Kind = Greetings::Kind;

constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Two ends of a connection: the server's is in Greetings.
class GreetingsTest : public ::testing::Test {
 protected:
  void Start(Kind kind, double handshakes_per_second = 100) {
    greetings_.emplace(
        Greetings::Options{.kind = kind,
                           .seconds = 10,
                           .handshakes_per_second = handshakes_per_second},
        0.0);
  }
  // Returns the server's descriptor.
  int Connect(const std::string& words) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    clients_.emplace_back(ends[0]);
    if (!words.empty()) Say(words);
    greetings_->Add(UniqueFd(ends[1]), 0);
    return ends[1];
  }
  // The last client says something.
  void Say(const std::string& words) {
    send(clients_.back().get(), words.data(), words.size(), MSG_NOSIGNAL);
  }
  std::vector<Greetings::Due> Due(double now = 0) {
    return greetings_->TakeDue(now);
  }

  std::optional<Greetings> greetings_;
  std::vector<UniqueFd> clients_;
};

TEST_F(GreetingsTest, AnythingGoesWhereNothingIsAskedFor) {
  Start(Kind::kAny);
  const int fd = Connect("");
  const auto due = Due();
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].fd.get(), fd);
  EXPECT_EQ(due[0].refusal, "");
  EXPECT_FALSE(greetings_->Has(fd));
}

TEST_F(GreetingsTest, Http2BeginsWithItsPrefaceHoweverSlowly) {
  Start(Kind::kHttp2);
  const int fd = Connect("PRI ");
  EXPECT_TRUE(Due().empty());
  Say(std::string(kPreface + 4) + "more");
  greetings_->Look(fd, false);
  const auto due = Due();
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].refusal, "");
  // Nothing of it is gone.
  char bytes[64];
  EXPECT_EQ(recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT), 28);
}

TEST_F(GreetingsTest, OthersAreRefused) {
  const std::pair<Kind, std::string> bad[] = {
      {Kind::kHttp2, "GET / HTTP/1.1\r\n\r\n"},
      {Kind::kHttp2, "PRI * HTTP/1.0\r\n\r\nSM\r\n\r\n"},
      {Kind::kHttp2, std::string("\x16\x03\x01\0", 4)},
      {Kind::kHttp2, std::string(1, '\0')},
      {Kind::kTls, kPreface},
      {Kind::kTls, "\x16\x02"},
  };
  for (const auto& [kind, words] : bad) {
    Start(kind);
    Connect(words);
    const auto due = Due();
    ASSERT_EQ(due.size(), 1u) << words;
    EXPECT_THAT(due[0].refusal, HasSubstr("does not speak")) << words;
  }
}

TEST_F(GreetingsTest, SilenceEndsAndWhoLeavesIsNoComplaint) {
  Start(Kind::kHttp2);
  Connect("PRI");
  const int gone = Connect("");
  clients_.back().Close();
  greetings_->Look(gone, true);
  auto due = Due(9.9);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_TRUE(due[0].left);
  due = Due(10.1);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_FALSE(due[0].left);
  EXPECT_THAT(due[0].refusal, HasSubstr("within 10 s"));
}

TEST_F(GreetingsTest, HandshakesBeginAtABoundedRate) {
  Start(Kind::kTls, 4);
  for (int i = 0; i < 10; ++i) Connect("\x16\x03\x01");
  EXPECT_EQ(Due(0).size(), 4u);
  EXPECT_EQ(Due(0.1).size(), 0u);
  EXPECT_EQ(Due(0.6).size(), 2u);
  EXPECT_EQ(Due(5).size(), 4u);
}

TEST_F(GreetingsTest, TurnsGoInOrderAndNotToThoseThatHaveLeft) {
  Start(Kind::kTls, 1);
  std::vector<int> fds;
  for (int i = 0; i < 4; ++i) fds.push_back(Connect("\x16\x03\x01"));
  auto due = Due(0);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].fd.get(), fds[0]);
  due.clear();  // its number is free
  fds[0] = Connect("\x16\x03\x01");
  greetings_->Look(fds[1], true);
  due = Due(0.5);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_TRUE(due[0].left);
  due = Due(1);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].fd.get(), fds[2]);
  greetings_->Remove(fds[3]);
  due = Due(2);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].fd.get(), fds[0]);
}

}  // namespace
}  // namespace h2o
