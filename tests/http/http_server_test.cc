// Tests the HTTP server through sockets: good requests, bad ones, slow clients,
// clients that leave.
#include "http/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/monitor.h"

namespace h2o {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using std::chrono_literals::operator""ms;

// A client's socket.  Reads end after five seconds.
class Client {
 public:
  explicit Client(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    const timeval limit = {.tv_sec = 5, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { Close(); }

  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void Send(const std::string& bytes) {
    send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  // Reads until `text` has come, or the end.
  std::string ReadUntil(const std::string& text) {
    char block[4096];
    while (read_.find(text) == std::string::npos) {
      const ssize_t n = recv(fd_, block, sizeof(block), 0);
      if (n <= 0) break;
      read_.append(block, static_cast<size_t>(n));
    }
    return read_;
  }
  std::string ReadAll() { return ReadUntil("\1"); }
  void Clear() { read_.clear(); }
  // Whether the server closes the connection.
  bool Ends() const {
    char byte;
    return recv(fd_, &byte, 1, 0) == 0;
  }

 private:
  int fd_;
  std::string read_;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpHandler handler, const HttpServerOptions& options = {}) {
    server_ = HttpServer::Start({"127.0.0.1", 0}, options, std::move(handler))
                  .value();
  }
  // Answers with the method, the path, the query and the body.
  void StartEcho(const HttpServerOptions& options = {}) {
    Start(
        [](const HttpRequest& r, std::shared_ptr<HttpReply> reply) {
          reply->Send({.content_type = "text/plain",
                       .body = r.method + " " + r.path + " " + r.query + " " +
                               r.body + " " + std::string(r.Header("x-a")),
                       .headers = {}});
        },
        options);
  }
  int port() const { return server_->address().port; }
  std::string Answer(const std::string& request) {
    Client client(port());
    client.Send(request);
    return client.ReadAll();
  }
  bool WaitForConnections(int n) {
    for (int i = 0; i < 500; ++i) {
      if (server_->num_connections() == n) return true;
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }

  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersRequestsOfOneConnectionInTurn) {
  StartEcho();
  Client client(port());
  client.Send("GET /a?b=1 HTTP/1.1\r\nHost: x\r\nX-A: yes\r\n\r\n");
  const std::string first = client.ReadUntil("GET /a b=1  yes");
  EXPECT_THAT(first, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(first, HasSubstr("Content-Length: 15\r\n"));
  client.Clear();
  client.Send(
      "POST /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
      "Content-Length: 3\r\n\r\nxyz");
  EXPECT_THAT(client.ReadAll(), EndsWith("POST /c  xyz "));
}

TEST_F(HttpServerTest, AHeadRequestGetsNoBody) {
  StartEcho();
  const std::string answer =
      Answer("HEAD /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("Content-Length: 9\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
}

TEST_F(HttpServerTest, ABodyThatWaitsForLeaveGetsIt) {
  StartEcho();
  Client client(port());
  client.Send(
      "POST /c HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
      "Content-Length: 3\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 100"));
  client.Send("xyz");
  EXPECT_THAT(client.ReadUntil("xyz"), HasSubstr("POST /c  xyz"));
}

TEST_F(HttpServerTest, BadRequestsAreRefusedAndTheConnectionCloses) {
  HttpServerOptions options;
  options.max_body_bytes = 100;
  options.max_header_bytes = 1000;
  StartEcho(options);
  const std::pair<std::string, const char*> bad[] = {
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 400"},
      {"\x16\x03\x01\x02garbage\r\n\r\n", "HTTP/1.1 400"},
      {"GET http:/6x:1/p HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400"},
      {"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400"},
      {"GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(5000, 'a') + "\r\n\r\n",
       "HTTP/1.1 431"},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n",
       "HTTP/1.1 413"},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
       "ff\r\n" +
           std::string(255, 'a') + "\r\n0\r\n\r\n",
       "HTTP/1.1 413"},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
       "HTTP/1.1 400"},
  };
  for (const auto& [request, says] : bad) {
    const std::string answer = Answer(request);
    EXPECT_THAT(answer, StartsWith(says)) << request.substr(0, 40);
    EXPECT_THAT(answer, HasSubstr("Connection: close")) << answer;
  }
  EXPECT_TRUE(WaitForConnections(0));
}

TEST_F(HttpServerTest, ARequestThatNeverEndsIsCutOff) {
  HttpServerOptions options;
  options.header_seconds = options.body_seconds = 0.05;
  StartEcho(options);
  EXPECT_THAT(Answer("GET / HT"), StartsWith("HTTP/1.1 408"));
  EXPECT_THAT(
      Answer("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"),
      StartsWith("HTTP/1.1 408"));
  EXPECT_TRUE(WaitForConnections(0));
}

TEST_F(HttpServerTest, MoreConnectionsThanTheLimitAreClosed) {
  HttpServerOptions options;
  options.max_connections = 2;
  StartEcho(options);
  Client first(port()), second(port());
  ASSERT_TRUE(WaitForConnections(2));
  EXPECT_EQ(Answer("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "");
  first.Close();
  ASSERT_TRUE(WaitForConnections(1));
  EXPECT_THAT(Answer("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
              StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, AReplyMayComeInPiecesFromAnotherThread) {
  std::vector<std::thread> threads;
  Start([&](const HttpRequest&, std::shared_ptr<HttpReply> reply) {
    threads.emplace_back([reply] {
      reply->Begin({.content_type = "text/event-stream", .headers = {}});
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(reply->Write("data: " + std::to_string(i) + "\n\n"));
        std::this_thread::sleep_for(2ms);
      }
      reply->End();
    });
  });
  Client client(port());
  client.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string answer = client.ReadUntil("\r\n0\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("Transfer-Encoding: chunked"));
  EXPECT_THAT(answer, HasSubstr("data: 2\n\n"));
  EXPECT_THAT(answer, EndsWith("0\r\n\r\n"));
  for (std::thread& thread : threads) thread.join();
}

TEST_F(HttpServerTest, AClientThatLeavesIsNoticedBeforeTheReply) {
  Monitor monitor;
  bool gone = false;
  std::shared_ptr<HttpReply> held;
  Start([&](const HttpRequest&, std::shared_ptr<HttpReply> reply) {
    reply->OnGone([&] {
      Monitor::Lock lock(monitor);
      gone = true;
    });
    Monitor::Lock lock(monitor);
    held = std::move(reply);
  });
  Client client(port());
  client.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  {
    Monitor::Lock lock(monitor);
    ASSERT_TRUE(lock.AwaitFor(5, [&] { return held != nullptr; }));
  }
  client.Close();
  Monitor::Lock lock(monitor);
  EXPECT_TRUE(lock.AwaitFor(5, [&] { return gone; }));
  EXPECT_FALSE(held->Write("late"));
}

TEST_F(HttpServerTest, AClientThatDoesNotReadIsCutOff) {
  HttpServerOptions options;
  options.write_seconds = 0.1;
  std::thread writer;
  int64_t written = 0;
  Start(
      [&](const HttpRequest&, std::shared_ptr<HttpReply> reply) {
        writer = std::thread([&written, reply] {
          reply->Begin({.headers = {}});
          while (written < (64 << 20) &&
                 reply->Write(std::string(10000, 'a'))) {
            written += 10000;
            std::this_thread::yield();
          }
        });
      },
      options);
  Client client(port());
  client.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(WaitForConnections(1));
  EXPECT_TRUE(WaitForConnections(0));
  writer.join();
  EXPECT_LT(written, 64 << 20);
}

TEST_F(HttpServerTest, TurnsComeWhenTheClientHasWhatWasWritten) {
  constexpr int kWakes = 100'000;
  std::thread waker;
  int turns = 0, last = 0;
  std::atomic<int> waked = 0;
  Start([&](const HttpRequest&, std::shared_ptr<HttpReply> reply) {
    reply->OnTurn([&, reply = reply.get()] {
      if (turns++ == 0) reply->Begin({.headers = {}});
      last = waked;
      reply->Write(std::to_string(last) + "\n");
      if (last == kWakes) reply->End();
    });
    waker = std::thread([&, reply] {
      while (waked < kWakes) {
        ++waked;
        reply->Wake();
      }
    });
  });
  Client client(port());
  client.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n0\r\n\r\n"),
              HasSubstr(std::to_string(kWakes) + "\n"));
  waker.join();
  EXPECT_EQ(last, kWakes);
  EXPECT_LT(turns, kWakes) << "wakes share turns";
}

TEST_F(HttpServerTest, ASilentReplyMayBeBroken) {
  Start([&](const HttpRequest&, std::shared_ptr<HttpReply> reply) {
    const auto times = std::make_shared<int>(0);
    reply->OnSilence(0.02, [times, reply = reply.get()] {
      if (++*times == 1) reply->Begin({.headers = {}});
      reply->Write("still here " + std::to_string(*times) + "\n");
      if (*times == 3) reply->End();
    });
  });
  Client client(port());
  client.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n0\r\n\r\n"), HasSubstr("still here 3"));
}

TEST_F(HttpServerTest, AReplyMayCloseItsConnection) {
  Start([&](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    reply->Send({.status = 503, .body = "no", .closes = true});
  });
  EXPECT_THAT(Answer("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
              HasSubstr("Connection: close"));
}

// A handler's reply may outlive the server.
TEST_F(HttpServerTest, AReplyAfterTheServerIsGoneDoesNothing) {
  Monitor monitor;
  std::shared_ptr<HttpReply> held;
  Start([&](const HttpRequest&, std::shared_ptr<HttpReply> reply) {
    Monitor::Lock lock(monitor);
    held = std::move(reply);
  });
  Client client(port());
  client.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  {
    Monitor::Lock lock(monitor);
    ASSERT_TRUE(lock.AwaitFor(5, [&] { return held != nullptr; }));
  }
  Client idle(port());
  ASSERT_TRUE(WaitForConnections(2));
  server_.reset();
  EXPECT_TRUE(client.Ends());
  EXPECT_TRUE(idle.Ends());
  held->Send({.body = "late", .headers = {}});
  held.reset();
}

TEST_F(HttpServerTest, ATakenPortIsRefusedByName) {
  StartEcho();
  const auto second = HttpServer::Start(server_->address(), {},
                                        [](const auto&, const auto&) {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("127.0.0.1:" + std::to_string(port())));
}

}  // namespace
}  // namespace h2o
