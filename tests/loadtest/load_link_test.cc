// Tests what comes over HTTP: streams of completions, and generators that have
// joined a leader.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "http/http_server.h"
#include "loadtest/completion_stream.h"
#include "loadtest/generator.h"
#include "loadtest/http_target.h"
#include "loadtest/leader.h"
#include "loadtest/link_messages.h"
#include "loadtest/target.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

TEST(CompletionStream, CountsTokens) {
  CompletionStream stream;
  // In pieces that end anywhere.
  EXPECT_EQ(stream.Take(": keep-alive\n\ndata: {\"choices\": [{\"te"), 0);
  EXPECT_EQ(stream.Take("xt\": \"a\"}]}\r\n\r\n"), 1);
  EXPECT_EQ(stream.Take("data: {\"choices\": [{\"text\": \"\"}]}\n\n"), 0);
  EXPECT_EQ(stream.Take("data: {\"choices\": [{\"text\": \"b\"}], \"usage\": "
                        "{\"completion_tokens\": 4}}\n\n"),
            3);
  EXPECT_FALSE(stream.ended());
  EXPECT_EQ(stream.Take("data:{\"choices\": [], \"usage\": "
                        "{\"completion_tokens\": 4}}\n\ndata: [DONE]\n\n"),
            0);
  EXPECT_TRUE(stream.ended());
  EXPECT_TRUE(stream.status().ok());
}

TEST(CompletionStream, BelievesNoCountThatIsNone) {
  for (const char* count : {"-3", "1.5", "\"9\"", "null", "[]"}) {
    CompletionStream stream;
    EXPECT_EQ(stream.Take(absl::StrCat(
                  "data: {\"usage\": {\"completion_tokens\": ", count, "}}\n")),
              0)
        << count;
  }
  CompletionStream stream;
  EXPECT_EQ(stream.Take("data: {\"usage\": {\"completion_tokens\": "
                        "9000000000000000000}}\n"),
            1'000'000'000);
  EXPECT_EQ(stream.Take("data: {\"choices\": [{\"text\": \"a\"}]}\n"), 1);
}

TEST(CompletionStream, KeepsAnError) {
  CompletionStream stream;
  stream.Take(
      "data: {\"error\": {\"message\": \"full\", \"code\": "
      "\"server_is_overloaded\"}}\n\ndata: [DONE]\n\n");
  EXPECT_EQ(stream.status(), absl::ResourceExhaustedError("full"));
  EXPECT_EQ(stream.Take("data: {\"choices\": [{\"text\": \"a\"}]}\n"), 0);
}

TEST(CompletionStream, TellsFullServersFromFailedOnes) {
  EXPECT_EQ(OutcomeOf(429, ""), LoadOutcome::kRefused);
  EXPECT_EQ(OutcomeOf(503, ""), LoadOutcome::kRefused);
  EXPECT_EQ(OutcomeOf(503, R"({"error": {"code": "server_is_unavailable"}})"),
            LoadOutcome::kFailed);
  EXPECT_EQ(OutcomeOf(400, ""), LoadOutcome::kFailed);
}

TEST(LinkMessages, GoThroughJson) {
  ReportMessage report{.generator = 1,
                       .run = 2,
                       .progress = {.sent = 3, .ok = 1, .waited = 2},
                       .records = {{.index = 4, .error = "\"e\""}},
                       .ended = true,
                       .fault = "none",
                       .round_trip_seconds = 0.1};
  const auto read = ReportFromJson(ToJson(report));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToJson(*read), ToJson(report));
  const NextMessage next{.state = NextMessage::State::kRun,
                         .run = 3,
                         .spec = "{}",
                         .part = {1, 2},
                         .start = 5.5};
  EXPECT_EQ(ToJson(*NextFromJson(ToJson(next))), ToJson(next));
  EXPECT_FALSE(ReportFromJson("{}").ok());
  EXPECT_FALSE(NextFromJson("[]").ok());
}

TEST(LinkMessages, APartIsOneOfTheParts) {
  for (const LoadPart& part : {LoadPart{0, 0}, {-1, 2}, {2, 2}, {0, -1}}) {
    const NextMessage next{.state = NextMessage::State::kRun, .part = part};
    EXPECT_THAT(NextFromJson(ToJson(next)).status().message(),
                HasSubstr("there is no part"));
  }
}

TEST(Target, ATenantHasItsKeyOrTheOnlyOne) {
  EXPECT_EQ(*KeyOfTenant(5, 1), 0);
  EXPECT_EQ(*KeyOfTenant(1, 2), 1);
  EXPECT_THAT(KeyOfTenant(2, 2).status().message(), HasSubstr("--tenants"));
  EXPECT_FALSE(KeyOfTenant(0, 0).ok());
  EXPECT_FALSE(KeyOfTenant(-1, 2).ok());
}

// What came of one request to a server that answers with `answer`.
struct Ended {
  LoadOutcome outcome = LoadOutcome::kOk;
  std::string error;
  int tokens = 0;
};
Ended EndWith(const HttpResponse& answer,
              const std::vector<std::string>& keys = {""}, int tenant = 0) {
  const auto server =
      HttpServer::Start(
          {"127.0.0.1", 0}, {},
          [&](const HttpRequest& /*request*/,
              const std::shared_ptr<HttpReply>& reply) { reply->Send(answer); })
          .value();
  HttpTargetOptions options;
  options.url.where = server->address();
  options.keys = keys;
  const SteadyPace pace;
  Ended ended;
  const auto target = NewHttpTarget(options, &pace).value();
  std::promise<void> end;
  target->Start({.prompt = {11}, .tenant = tenant},
                {.on_tokens = [&](double, int n) { ended.tokens += n; },
                 .on_end =
                     [&](double, LoadOutcome outcome, std::string error) {
                       ended.outcome = outcome;
                       ended.error = std::move(error);
                       end.set_value();
                     }});
  end.get_future().wait();
  return ended;
}

TEST(HttpTarget, SaysWhatAServerDidWrong) {
  const Ended good = EndWith(
      {.body = "data: {\"choices\": [{\"text\": \"a\"}]}\n\ndata: [DONE]\n"});
  EXPECT_EQ(good.outcome, LoadOutcome::kOk) << good.error;
  EXPECT_EQ(good.tokens, 1);
  struct Case {
    int status;
    const char *body, *says;
  };
  for (const Case& c : {
           Case{500, "broken", "status 500: broken"},
           {301, "", "status 301"},
           {200, "", "without [DONE]"},
           {200, "<html>\n", "does not speak OpenAI's API: <html>"},
           {200, "data: [1]\n", "does not speak OpenAI's API"},
           {200, "data: {\"choices\": 3}\n", "without [DONE]"},
           {200, "data: {\"choices\": [{\"text\": 3}]}\n\ndata: [DONE]\n",
            "the answer has no tokens"},
           {200, "data: [DONE]\n", "the answer has no tokens"},
           {200, "data: {\"error\": {\"message\": \"lost\"}}\n", "lost"},
       }) {
    const Ended ended = EndWith({.status = c.status, .body = c.body});
    EXPECT_EQ(ended.outcome, LoadOutcome::kFailed) << c.body;
    EXPECT_THAT(ended.error, HasSubstr(c.says));
  }
}

TEST(HttpTarget, ARequestOfAnUnknownTenantFails) {
  const Ended ended = EndWith({}, {"a", "b"}, 2);
  EXPECT_EQ(ended.outcome, LoadOutcome::kFailed);
  EXPECT_THAT(ended.error, HasSubstr("give --tenants as the leader has it"));
}

// Answers every request at once.
class EchoTarget final : public Target {
 public:
  explicit EchoTarget(const Pace* pace) : pace_(pace) {}
  void Start(LoadRequest request, LoadHandler handler) override {
    handler.on_tokens(pace_->Now(), request.output_tokens);
    handler.on_end(pace_->Now(), LoadOutcome::kOk, "");
  }
  void CancelAll() override {}

 private:
  const Pace* const pace_;
};

absl::StatusOr<std::unique_ptr<Target>> MakeEcho(const Pace* pace,
                                                 const std::string& name) {
  if (name == "bad") return absl::InvalidArgumentError("'bad' is no target");
  return std::make_unique<EchoTarget>(pace);
}

class LeaderTest : public ::testing::Test {
 protected:
  void Lead(int generators) {
    leader_ = Leader::Listen({"127.0.0.1", 0}, generators, &pace_).value();
    leader_at_.where = leader_->address();
  }
  std::future<absl::Status> Join(
      const std::string& name,
      const std::function<bool()>& stopped = [] { return false; }) {
    return std::async(std::launch::async, [this, name, stopped] {
      SteadyPace pace;
      Targets targets(
          [&](const std::string& target) { return MakeEcho(&pace, target); });
      return Generate({.leader = leader_at_, .name = name}, &targets, &pace,
                      stopped);
    });
  }

  static bool GoOn(const LoadProgress& /*progress*/, double /*seconds*/) {
    return true;
  }

  SteadyPace pace_;
  std::unique_ptr<Leader> leader_;
  HttpUrl leader_at_;
};

TEST_F(LeaderTest, TwoGeneratorsShareEachRun) {
  Lead(2);
  auto one = Join("one"), two = Join("two");
  LoadSpec spec{.arrivals = ArrivalKind::kConstant,
                .rate = {{0, 1000}},
                .max_requests = 40,
                .targets = {"echo"}};
  for (int run = 0; run < 2; ++run) {
    const auto result = leader_->Run(spec, GoOn);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->records.size(), 40);
    ASSERT_EQ(result->clocks.size(), 2);
    std::vector<bool> seen(40);
    for (const RequestRecord& record : result->records) {
      EXPECT_EQ(record.generator, record.index % 2);
      EXPECT_EQ(record.OutputTokens(), record.wanted_tokens);
      EXPECT_FALSE(seen[record.index]);
      seen[record.index] = true;
    }
    for (const GeneratorClock& clock : result->clocks) {
      EXPECT_GT(clock.round_trip_seconds, 0);
    }
  }
  auto late = Join("three");
  EXPECT_THAT(late.get().message(), HasSubstr("raise --generators"));
  leader_.reset();
  EXPECT_TRUE(one.get().ok());
  EXPECT_TRUE(two.get().ok());
}

TEST_F(LeaderTest, NamesTheGeneratorThatCannotRun) {
  Lead(1);
  auto one = Join("one");
  const LoadSpec spec{
      .rate = {{0, 1000}}, .max_requests = 4, .targets = {"bad"}};
  const auto result = leader_->Run(spec, GoOn);
  EXPECT_THAT(result.status().message(),
              testing::AllOf(HasSubstr("generator 0 (one 127.0.0.1"),
                             HasSubstr("'bad' is no target")));
  leader_.reset();
  EXPECT_TRUE(one.get().ok());
}

TEST_F(LeaderTest, NamesTheGeneratorThatWasStopped) {
  Lead(1);
  std::atomic<bool> stopped = false;
  auto one = Join("one", [&] { return stopped.load(); });
  const LoadSpec spec{.arrivals = ArrivalKind::kConstant,
                      .rate = {{0, 50}},
                      .duration_seconds = 600,
                      .targets = {"echo"}};
  const auto result =
      leader_->Run(spec, [&](const LoadProgress& progress, double) {
        stopped = progress.sent > 0;
        return true;
      });
  EXPECT_THAT(result.status().message(),
              testing::AllOf(HasSubstr("generator 0 (one 127.0.0.1"),
                             HasSubstr("stopped by a signal")));
  EXPECT_TRUE(absl::IsCancelled(one.get()));
  // It has said so: the next run need not wait until it has been silent.
  EXPECT_THAT(leader_->Run(spec, GoOn).status().message(),
              HasSubstr("has left"));
}

TEST_F(LeaderTest, AGeneratorSaysThatTheLeaderIsLost) {
  std::promise<void> asked;
  auto server =
      HttpServer::Start(
          {"127.0.0.1", 0}, {},
          [&](const HttpRequest& request,
              const std::shared_ptr<HttpReply>& reply) {
            if (request.path == "/next") asked.set_value();
            reply->Send({.body = R"({"generator": 0, "state": "wait"})",
                         .closes = true});
          })
          .value();
  leader_at_.where = server->address();
  auto one = Join("one");
  asked.get_future().wait();
  server.reset();
  const absl::Status status = one.get();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("the leader is lost"));
}

TEST(Generator, RefusesWhatIsNoLeader) {
  for (const char* body : {"[]", "{}", R"({"generator": "x"})", "no JSON"}) {
    const auto server =
        HttpServer::Start(
            {"127.0.0.1", 0}, {},
            [&](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
              reply->Send({.body = body, .headers = {}});
            })
            .value();
    SteadyPace pace;
    Targets targets(nullptr);
    const absl::Status status =
        Generate({.leader = {.where = server->address()}}, &targets, &pace,
                 [] { return false; });
    EXPECT_THAT(status.message(), HasSubstr("is no leader")) << body;
  }
}

TEST_F(LeaderTest, StopsWhileItWaits) {
  Lead(1);
  const auto result = leader_->Run(
      {}, [](const LoadProgress&, double seconds) { return seconds >= 0; });
  EXPECT_TRUE(absl::IsCancelled(result.status()));
}

}  // namespace
}  // namespace h2o
