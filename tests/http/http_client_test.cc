// Tests the HTTP client against the HTTP server: answers, streams, connections
// that are kept and lost, limits.
#include "http/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace h2o {
namespace {

using ::testing::HasSubstr;
using std::chrono_literals::operator""ms;

class HttpClientTest : public ::testing::Test {
 protected:
  void Serve(HttpHandler handler, const HttpServerOptions& options = {}) {
    server_ = HttpServer::Start({"127.0.0.1", 0}, options, std::move(handler))
                  .value();
  }
  std::unique_ptr<HttpClient> Connect(const std::string& path = "",
                                      const HttpClientOptions& options = {}) {
    const auto url =
        ParseHttpUrl("http://" + server_->address().ToString() + path);
    return HttpClient::Create(url.value(), options).value();
  }
  // Says what was asked.
  static void Echo(const HttpRequest& request,
                   const std::shared_ptr<HttpReply>& reply) {
    reply->Send(
        {.status = request.path == "/none" ? 404 : 200,
         .body = request.method + " " + request.path + " " + request.body,
         .headers = {{"X-Said", std::string(request.Header("x-say"))}}});
  }

  std::unique_ptr<HttpServer> server_;
};

TEST(HttpUrl, IsParsed) {
  const auto url = ParseHttpUrl("http://host:8000/api/");
  ASSERT_TRUE(url.ok());
  EXPECT_FALSE(url->tls);
  EXPECT_EQ(url->where, (HostPort{"host", 8000}));
  EXPECT_EQ(url->path, "/api");
  EXPECT_EQ(ParseHttpUrl("https://h")->where.port, 443);
  EXPECT_TRUE(ParseHttpUrl("https://h")->tls);
  EXPECT_EQ(ParseHttpUrl("http://[::1]")->where, (HostPort{"::1", 80}));
  EXPECT_EQ(ParseHttpUrl("http://[::1]:9/")->where, (HostPort{"::1", 9}));
  for (const char* bad :
       {"", "host:8000", "ftp://host", "http://", "http://h:0",
        "http://h:99999", "http://h/a b", "http://h?x=1"}) {
    EXPECT_EQ(ParseHttpUrl(bad).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

TEST_F(HttpClientTest, ARequestHasADeadline) {
  std::shared_ptr<HttpReply> kept;
  Serve([&](const HttpRequest&, std::shared_ptr<HttpReply> reply) {
    reply->Begin({});
    reply->Write("a");
    kept = std::move(reply);
  });
  std::string read;
  const auto answer = Connect()->Ask(
      {.method = "GET", .path = "/"},
      [&](std::string_view piece) {
        read += piece;
        return true;
      },
      /*most_seconds=*/0.5);
  EXPECT_EQ(answer.status(),
            absl::DeadlineExceededError("the deadline has passed"));
  EXPECT_EQ(Connect()
                ->Ask({.method = "GET", .path = "/"}, nullptr,
                      /*most_seconds=*/0)
                .status()
                .code(),
            absl::StatusCode::kDeadlineExceeded);
  server_.reset();  // before what it holds
}

TEST_F(HttpClientTest, AsksOverOneConnection) {
  Serve(Echo);
  const auto client = Connect();
  for (int i = 0; i < 3; ++i) {
    const auto answer = client->Ask({.method = "POST",
                                     .path = "/a",
                                     .headers = {{"x-say", "hi"}},
                                     .body = std::string(100'000, 'x')});
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->status, 200);
    EXPECT_EQ(answer->body, "POST /a " + std::string(100'000, 'x'));
    EXPECT_THAT(answer->headers,
                testing::Contains(testing::Pair("X-Said", "hi")));
  }
  EXPECT_EQ(server_->num_connections(), 1);
  const auto none = client->Ask({.method = "GET", .path = "/none"});
  EXPECT_EQ(none->status, 404);
  EXPECT_EQ(Connect("/api")->Ask({.method = "GET", .path = "/b"})->body,
            "GET /api/b ");
}

TEST_F(HttpClientTest, GivesAStreamInPieces) {
  Serve([](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    std::thread([reply] {
      reply->Begin({.content_type = "text/event-stream"});
      for (const char* piece : {"data: 1\n\n", "data: 2\n\n"}) {
        reply->Write(piece);
        std::this_thread::sleep_for(20ms);
      }
      reply->End();
    }).detach();
  });
  const auto client = Connect();
  std::string all;
  int pieces = 0;
  const auto answer =
      client->Ask({.method = "GET", .path = "/"}, [&](std::string_view piece) {
        all += piece;
        ++pieces;
        return true;
      });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(all, "data: 1\n\ndata: 2\n\n");
  EXPECT_GE(pieces, 2);
  EXPECT_EQ(answer->body, "");
  const auto closed = client->Ask({.method = "GET", .path = "/"},
                                  [](std::string_view) { return false; });
  EXPECT_TRUE(absl::IsCancelled(closed.status()));
  EXPECT_TRUE(client->Ask({.method = "GET", .path = "/"}).ok());
}

TEST_F(HttpClientTest, ConnectsAgainWhenTheServerHasLetItGo) {
  Serve(Echo, {.idle_seconds = 0.05});
  const auto client = Connect();
  EXPECT_TRUE(client->Ask({.method = "GET", .path = "/a"}).ok());
  while (server_->num_connections() > 0) std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(client->Ask({.method = "GET", .path = "/a"}).ok());
}

TEST_F(HttpClientTest, SaysWhyThereIsNoAnswer) {
  std::vector<std::shared_ptr<HttpReply>> held;  // no answer ever
  Serve([&](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    held.push_back(reply);
  });
  const auto silent = Connect("", {.silence_seconds = 0.1});
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      silent->Ask({.method = "GET", .path = "/"}).status()));

  const auto client = Connect();
  std::thread stopper([&] {
    std::this_thread::sleep_for(50ms);
    client->Abort();
  });
  EXPECT_TRUE(
      absl::IsCancelled(client->Ask({.method = "GET", .path = "/"}).status()));
  stopper.join();
  EXPECT_TRUE(
      absl::IsCancelled(client->Ask({.method = "GET", .path = "/"}).status()));

  const auto gone = Connect();
  server_.reset();
  EXPECT_TRUE(
      absl::IsUnavailable(gone->Ask({.method = "GET", .path = "/"}).status()));
}

}  // namespace
}  // namespace h2o
