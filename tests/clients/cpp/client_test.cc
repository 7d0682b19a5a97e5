// h2o::Client against a server whose answers the tests write.
#include "h2oserve/client.h"

#include <gmock/gmock.h>
#include <grpcpp/security/server_credentials.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/logprobs.h"
#include "tests/access/new_certificate.h"
#include "tests/clients/cpp/fake_server.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Answer = FakeServer::Answer;
using Writer = grpc::ServerWriter<v1::GenerateResponse>;

// A program may include headers of the server beside the client's.
static_assert(!std::is_same_v<LikelyToken, TokenLogprob>);

constexpr double kLongSeconds = 20;  // nothing here takes so long

// ---- Answers

// A message with tokens, and a letter of text for each: token 1 is "a".
v1::GenerateResponse Tokens(const std::vector<int32_t>& tokens) {
  v1::GenerateResponse message;
  message.set_request_id("req-9");
  for (const int32_t token : tokens) {
    message.add_tokens(token);
    message.mutable_text()->push_back(static_cast<char>('a' + token - 1));
  }
  return message;
}
v1::GenerateResponse First(const std::vector<int32_t>& tokens, uint64_t seed) {
  v1::GenerateResponse message = Tokens(tokens);
  message.set_seed(seed);
  return message;
}
v1::GenerateResponse Last(const std::vector<int32_t>& tokens,
                          int completion_tokens) {
  v1::GenerateResponse message = Tokens(tokens);
  message.set_finish_reason(v1::FINISH_REASON_LENGTH);
  message.mutable_usage()->set_completion_tokens(completion_tokens);
  message.mutable_usage()->set_kv_bytes(4096);
  message.mutable_usage()->set_attention_mass_kept(0.75);
  return message;
}

// Writes the messages and ends with a status.
Answer Says(const std::vector<v1::GenerateResponse>& messages,
            grpc::Status status = {}) {
  return [=](grpc::ServerContext*, Writer* writer) {
    for (const v1::GenerateResponse& message : messages) writer->Write(message);
    return status;
  };
}
Answer Fails(grpc::StatusCode code, const std::string& why) {
  return Says({}, {code, why});
}
Answer Fails(grpc::StatusCode code, const std::string& why, int retry_after) {
  return [=](grpc::ServerContext* context, Writer*) {
    context->AddTrailingMetadata("retry-after-ms", std::to_string(retry_after));
    return grpc::Status(code, why);
  };
}
// Until the client has left.
Answer Hangs(const std::vector<v1::GenerateResponse>& messages = {}) {
  return [=](grpc::ServerContext* context, Writer* writer) {
    for (const v1::GenerateResponse& message : messages) writer->Write(message);
    while (!context->IsCancelled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return grpc::Status::CANCELLED;
  };
}

Answer Whole() { return Says({First({1, 2}, 77), Last({3}, 3)}); }
const auto kAway = grpc::StatusCode::UNAVAILABLE;
const auto kBusy = grpc::StatusCode::RESOURCE_EXHAUSTED;

// ---- Clients

ClientOptions OptionsFor(const FakeServer& server) {
  ClientOptions options;
  options.server = server.address();
  options.retry.first_pause_seconds = 0.001;
  options.timeout_seconds = kLongSeconds;
  options.call_timeout_seconds = kLongSeconds;
  return options;
}
Client ClientOf(const FakeServer& server) {
  return *Client::Connect(OptionsFor(server));
}

GenerateRequest Ask(const std::string& prompt) {
  GenerateRequest request;
  request.prompt = prompt;
  return request;
}

TEST(Client, PutsAnAnswerTogether) {
  const FakeServer server({Whole()});
  const auto answer = ClientOf(server).Generate(Ask("hello"));
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_THAT(answer->tokens, ElementsAre(1, 2, 3));
  EXPECT_EQ(answer->text, "abc");
  EXPECT_EQ(answer->seed, 77u);
  EXPECT_EQ(answer->request_id, "req-9");
  EXPECT_EQ(answer->finished_by, FinishedBy::kLength);
  EXPECT_EQ(answer->usage.completion_tokens, 3);
  EXPECT_EQ(answer->usage.kv_bytes, 4096);
  EXPECT_EQ(answer->usage.attention_mass_kept, 0.75);
}

TEST(Client, SendsEveryField) {
  const FakeServer server({Whole()});
  GenerateRequest request;
  request.prompt = std::vector<int32_t>{4, 5};
  request.request_id = "mine";
  request.max_tokens = 9;
  request.temperature = 0.5;
  request.top_k = 40;
  request.top_p = 0.25;
  request.seed = ~uint64_t{0};
  request.min_p = 0.125;
  request.repetition_penalty = 1.5;
  request.frequency_penalty = -1;
  request.presence_penalty = 2;
  request.logit_bias = {{3, -100.0F}};
  request.logprobs = true;
  request.top_logprobs = 5;
  request.prompt_logprobs = true;
  request.min_tokens = 4;
  request.stop_token_ids = {50, 51};
  request.include_stop = true;
  request.add_special_tokens = false;
  request.stop = {"x", "y"};
  request.ignore_eos = true;
  request.generated = {6};
  request.priority = -3;
  request.kv.policy = "h2o";
  request.kv.budget_percent = 12.5;
  request.kv.heavy = 7;
  request.kv.recent = 8;
  ASSERT_TRUE(ClientOf(server).Generate(request));
  const v1::GenerateRequest sent = server.requests().at(0);
  EXPECT_THAT(sent.tokens().ids(), ElementsAre(4, 5));
  EXPECT_EQ(sent.request_id(), "mine");
  EXPECT_EQ(sent.max_tokens(), 9);
  EXPECT_EQ(sent.sampling().temperature(), 0.5);
  EXPECT_EQ(sent.sampling().top_k(), 40);
  EXPECT_EQ(sent.sampling().top_p(), 0.25);
  EXPECT_EQ(sent.sampling().seed(), ~uint64_t{0});
  EXPECT_EQ(sent.sampling().min_p(), 0.125);
  EXPECT_EQ(sent.sampling().repetition_penalty(), 1.5);
  EXPECT_EQ(sent.sampling().frequency_penalty(), -1);
  EXPECT_EQ(sent.sampling().presence_penalty(), 2);
  EXPECT_EQ(sent.sampling().logit_bias().at(3), -100);
  EXPECT_TRUE(sent.sampling().logprobs());
  EXPECT_EQ(sent.sampling().top_logprobs(), 5);
  EXPECT_TRUE(sent.sampling().prompt_logprobs());
  EXPECT_EQ(sent.min_tokens(), 4);
  EXPECT_THAT(sent.stop_token_ids(), ElementsAre(50, 51));
  EXPECT_TRUE(sent.include_stop());
  EXPECT_FALSE(sent.add_special_tokens());
  EXPECT_THAT(sent.stop(), ElementsAre("x", "y"));
  EXPECT_TRUE(sent.ignore_eos());
  EXPECT_THAT(sent.generated(), ElementsAre(6));
  EXPECT_EQ(sent.priority(), -3);
  EXPECT_EQ(sent.kv_policy().name(), "h2o");
  EXPECT_EQ(sent.kv_policy().percent_of_prompt(), 12.5);
  EXPECT_EQ(sent.kv_policy().heavy(), 7);
  EXPECT_EQ(sent.kv_policy().recent(), 8);
}

TEST(Client, LeavesDefaultsToTheServer) {
  const FakeServer server({Whole()});
  ASSERT_TRUE(ClientOf(server).Generate(Ask("")));
  v1::GenerateRequest sent = server.requests().at(0);
  EXPECT_TRUE(sent.has_text());
  EXPECT_FALSE(sent.has_max_tokens());
  EXPECT_FALSE(sent.has_add_special_tokens());
  EXPECT_FALSE(sent.sampling().has_seed());
  EXPECT_EQ(sent.kv_policy().budget_case(), v1::KvPolicy::BUDGET_NOT_SET);
}

TEST(Client, ShowsItsKey) {
  FakeServer server({Whole(), Whole(), Says({})});
  ASSERT_TRUE(ClientOf(server).Generate(Ask("")));
  EXPECT_EQ(server.authorization(), "");
  ClientOptions options = OptionsFor(server);
  options.api_key = "secret";
  const Client client = *Client::Connect(options);
  ASSERT_TRUE(client.Generate(Ask("")));
  EXPECT_EQ(server.authorization(), "Bearer secret");
  ASSERT_TRUE(client.GetStatus());
  EXPECT_EQ(server.authorization(), "Bearer secret");
}

// ---- Asking again

TEST(Client, AsksAgainBeforeTheFirstToken) {
  const FakeServer server(
      {Fails(kAway, "no group"), Fails(kBusy, "full", 20), Whole()});
  ClientOptions options = OptionsFor(server);
  std::vector<Error> told;
  std::vector<double> pauses;
  options.on_retry = [&](const Error& error, double pause) {
    told.push_back(error);
    pauses.push_back(pause);
  };
  const auto answer = Client::Connect(options)->Generate(Ask("hello"));
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_EQ(answer->text, "abc");
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0].ToString(), "UNAVAILABLE: no group");
  EXPECT_FALSE(told[0].retry_after_seconds);
  EXPECT_EQ(told[1].code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(told[1].retry_after_seconds, 0.02);
  EXPECT_GE(pauses[1], 0.02) << "not before the server wants to be asked";
  const auto requests = server.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[2].text(), "hello");
  EXPECT_TRUE(requests[2].generated().empty());
}

TEST(Client, AsksAgainWhenAStoppingServerCancels) {
  const FakeServer server({Fails(grpc::StatusCode::CANCELLED, ""), Whole()});
  const auto answer = ClientOf(server).Generate(Ask("hello"));
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST(Client, OtherErrorsStand) {
  const FakeServer server(
      {Fails(grpc::StatusCode::INVALID_ARGUMENT, "top_p is 2"), Whole()});
  const auto answer = ClientOf(server).Generate(Ask(""));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(answer.error().message, "top_p is 2");
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST(Client, GivesUpInTheEnd) {
  const FakeServer server({Fails(kAway, "no group")});
  ClientOptions options = OptionsFor(server);
  options.retry.unavailable_attempts = 3;
  const auto answer = Client::Connect(options)->Generate(Ask(""));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().ToString(), "UNAVAILABLE: no group");
  EXPECT_EQ(server.requests().size(), 4u);
}

TEST(Client, AsksOnceIfToldSo) {
  const FakeServer server({Fails(kBusy, "full", 5000), Whole()});
  ClientOptions options = OptionsFor(server);
  options.retry.enabled = false;
  const auto answer = Client::Connect(options)->Generate(Ask(""));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().retry_after_seconds, 5.0);
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST(Client, AFailureStandsWhoseRetryWouldComeTooLate) {
  const FakeServer server({Fails(kBusy, "full", 25000), Whole()});
  const auto answer = ClientOf(server).Generate(Ask(""));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kResourceExhausted);
}

TEST(Client, NobodyListens) {
  ClientOptions options;
  options.server = "127.0.0.1:1";
  options.retry.enabled = false;
  const Client client = *Client::Connect(options);
  EXPECT_EQ(client.Generate(Ask("")).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(client.IsReady().error().code, ErrorCode::kUnavailable);
}

// ---- Going on

TEST(Client, GoesOnBehindTheTokensThatCame) {
  const FakeServer server({Says({First({1}, 77), Tokens({2})}, {kAway, "lost"}),
                           Fails(kBusy, "full"),
                           Says({First({3}, 77)}, {kAway, "lost again"}),
                           Says({Last({4}, 4)})});
  GenerateRequest request = Ask("hello");
  request.temperature = 1;
  TokenStream stream = ClientOf(server).Stream(request);
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<uint64_t> seeds;
  std::vector<int32_t> resumes;
  while (std::optional<Piece> piece = stream.Next()) {
    resumes.push_back(piece->resumes);
    tokens.insert(tokens.end(), piece->tokens.begin(), piece->tokens.end());
    text += piece->text;
    if (piece->seed) seeds.push_back(*piece->seed);
  }
  ASSERT_FALSE(stream.error()) << stream.error()->ToString();
  EXPECT_THAT(tokens, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(text, "abcd");
  EXPECT_THAT(seeds, ElementsAre(77)) << "in the first piece alone";
  EXPECT_THAT(resumes, ElementsAre(0, 0, 1, 2));
  const auto requests = server.requests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_TRUE(requests[0].generated().empty());
  for (const int i : {1, 2}) {
    EXPECT_THAT(requests[i].generated(), ElementsAre(1, 2));
    EXPECT_EQ(requests[i].sampling().seed(), 77u);
    EXPECT_EQ(requests[i].sampling().temperature(), 1);
    EXPECT_EQ(requests[i].text(), "hello");
    EXPECT_EQ(requests[i].request_id(), "req-9");
  }
  EXPECT_THAT(requests[3].generated(), ElementsAre(1, 2, 3));
}

// One row of logprobs: `token`, and two of the likeliest.
void AddRow(int32_t token,
            google::protobuf::RepeatedPtrField<v1::Logprobs>* rows) {
  v1::Logprobs* row = rows->Add();
  row->mutable_chosen()->set_token(token);
  row->mutable_chosen()->set_logprob(-0.5F * static_cast<float>(token));
  row->add_top()->set_token(8);
  row->add_top()->set_token(9);
}

TEST(Client, LogprobsGoOnToo) {
  v1::GenerateResponse first = First({1}, 5), last = Last({2}, 2);
  AddRow(7, first.mutable_prompt_logprobs());
  AddRow(1, first.mutable_logprobs());
  AddRow(2, last.mutable_logprobs());
  last.set_stop_reason("50");
  const FakeServer server({Says({first}, {kAway, "lost"}), Says({last})});
  GenerateRequest request = Ask("hello");
  request.logprobs = true;
  request.prompt_logprobs = true;
  const auto answer = ClientOf(server).Generate(request);
  ASSERT_TRUE(answer) << answer.error().ToString();
  ASSERT_EQ(answer->prompt_logprobs.size(), 1u);
  EXPECT_EQ(answer->prompt_logprobs[0].chosen.token, 7);
  ASSERT_EQ(answer->logprobs.size(), 2u);
  EXPECT_EQ(answer->logprobs[1].chosen.token, 2);
  EXPECT_EQ(answer->logprobs[1].chosen.logprob, -1);
  ASSERT_EQ(answer->logprobs[1].top.size(), 2u);
  EXPECT_EQ(answer->logprobs[1].top[1].token, 9);
  EXPECT_EQ(answer->stop_reason, "50");
  const v1::Sampling again = server.requests().at(1).sampling();
  EXPECT_TRUE(again.logprobs());
  EXPECT_FALSE(again.prompt_logprobs()) << "they have come";
}

TEST(Client, GoesOnBehindTheTokensOfTheRequest) {
  const FakeServer server(
      {Says({First({3}, 5)}, {kAway, "lost"}), Says({Last({4}, 4)})});
  GenerateRequest request = Ask("hello");
  request.generated = {1, 2};
  const auto answer = ClientOf(server).Generate(request);
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_THAT(answer->tokens, ElementsAre(3, 4));
  EXPECT_THAT(server.requests().at(1).generated(), ElementsAre(1, 2, 3));
}

TEST(Client, TokensMakeTheNextFailureAFirstOne) {
  std::vector<Answer> answers;
  for (int i = 1; i <= 8; ++i) {
    answers.push_back(Says({Tokens({i})}, {kAway, "lost"}));
  }
  answers.push_back(Says({Last({9}, 9)}));
  const FakeServer server(answers);
  ClientOptions options = OptionsFor(server);
  options.retry.unavailable_attempts = 1;
  const auto answer = Client::Connect(options)->Generate(Ask(""));
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_EQ(answer->text, "abcdefghi");
  EXPECT_EQ(answer->resumes, 8);
}

TEST(Client, OnlyALostServerIsAskedToGoOn) {
  const FakeServer server(
      {Says({Tokens({1})}, {grpc::StatusCode::INTERNAL, "quarantined"}),
       Whole()});
  TokenStream stream = ClientOf(server).Stream(Ask(""));
  EXPECT_EQ(stream.Next()->text, "a");
  EXPECT_FALSE(stream.Next());
  EXPECT_EQ(stream.error()->ToString(), "INTERNAL: quarantined");
  EXPECT_FALSE(stream.Next()) << "it stays at its end";
}

TEST(Client, AnAnswerWithoutAnEndIsAnError) {
  const FakeServer server({Says({Tokens({1})})});
  const auto answer = ClientOf(server).Generate(Ask(""));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kInternal);
}

// ---- Deadlines and cancelling

TEST(Client, ADeadlinePasses) {
  const FakeServer server({Hangs({Tokens({1})})});
  GenerateRequest request = Ask("");
  request.timeout_seconds = 0.05;
  EXPECT_EQ(ClientOf(server).Generate(request).error().code,
            ErrorCode::kDeadlineExceeded);
  ClientOptions options = OptionsFor(server);
  options.timeout_seconds = 0.05;
  EXPECT_EQ(Client::Connect(options)->Generate(Ask("")).error().code,
            ErrorCode::kDeadlineExceeded);
}

TEST(Client, AnyThreadCancelsAStream) {
  const FakeServer server({Hangs({Tokens({1})})});
  TokenStream stream = ClientOf(server).Stream(Ask(""));
  EXPECT_EQ(stream.Next()->text, "a");
  std::thread other([&] { stream.Cancel(); });
  EXPECT_FALSE(stream.Next());
  EXPECT_EQ(stream.error()->code, ErrorCode::kCancelled);
  other.join();
}

TEST(Client, CancelsAPieceThatNobodyTook) {
  const FakeServer server({Hangs({Tokens({1}), Tokens({2}), Tokens({3})})});
  TokenStream stream = ClientOf(server).Stream(Ask(""));
  EXPECT_EQ(stream.Next()->text, "a");
  stream.Cancel();
  while (stream.Next()) {
  }
  EXPECT_EQ(stream.error()->code, ErrorCode::kCancelled);
}

TEST(Client, CancelsAPause) {
  const FakeServer server({Fails(kBusy, "full", 15000), Whole()});
  ClientOptions options = OptionsFor(server);
  std::promise<void> pauses;
  options.on_retry = [&](const Error&, double) { pauses.set_value(); };
  TokenStream stream = Client::Connect(options)->Stream(Ask(""));
  pauses.get_future().wait();
  stream.Cancel();
  EXPECT_FALSE(stream.Next());
  EXPECT_EQ(stream.error()->code, ErrorCode::kCancelled);
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST(Client, AStreamThatIsDroppedIsCancelled) {
  std::promise<void> cancelled;
  const FakeServer server({[&](grpc::ServerContext* context, Writer* writer) {
    const grpc::Status status = Hangs({Tokens({1})})(context, writer);
    cancelled.set_value();
    return status;
  }});
  {
    TokenStream stream = ClientOf(server).Stream(Ask(""));
    EXPECT_TRUE(stream.Next());
  }
  EXPECT_EQ(cancelled.get_future().wait_for(
                std::chrono::duration<double>(kLongSeconds)),
            std::future_status::ready);
}

TEST(Client, WhoDoesNotReadHoldsTheServerBack) {
  std::atomic<int> written = 0;
  const FakeServer server({[&](grpc::ServerContext*, Writer* writer) {
    v1::GenerateResponse message = Tokens({1});
    message.set_text(std::string(1 << 20, 'x'));
    for (int i = 0; i < 256 && writer->Write(message); ++i) ++written;
    return grpc::Status::OK;
  }});
  TokenStream stream = ClientOf(server).Stream(Ask(""));
  ASSERT_TRUE(stream.Next());
  // gRPC takes some megabytes ahead, not the whole answer.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LT(written, 64);
}

// ---- Callbacks and threads

TEST(Client, CallsBack) {
  const FakeServer server({Whole()});
  std::string text;
  std::promise<std::optional<Error>> end;
  ClientOf(server).Start(
      Ask(""), [&](const Piece& piece) { text += piece.text; },
      [&](std::optional<Error> error) { end.set_value(std::move(error)); });
  EXPECT_FALSE(end.get_future().get());
  EXPECT_EQ(text, "abc");
}

TEST(Client, CancelsWhatCallsBack) {
  const FakeServer server({Hangs()});
  std::promise<std::optional<Error>> end;
  RunningRequest running = ClientOf(server).Start(
      Ask(""), [](const Piece&) {},
      [&](std::optional<Error> error) { end.set_value(std::move(error)); });
  running.Cancel();
  EXPECT_EQ(end.get_future().get()->code, ErrorCode::kCancelled);
}

TEST(Client, ManyThreadsShareIt) {
  const FakeServer server({Whole()});
  const Client client = ClientOf(server);
  std::atomic<int> right = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, mine = client] {
      for (int j = 0; j < 4; ++j) {
        const auto answer = mine.Generate(Ask("hello"));
        if (answer && answer->text == "abc") ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 32);
}

// ---- Other calls

TEST(Client, AsksForTheModelUntilTheServerIsThere) {
  const FakeServer server({Fails(kAway, "starting"), Says({})});
  const auto info = ClientOf(server).GetModelInfo();
  ASSERT_TRUE(info) << info.error().ToString();
  EXPECT_EQ(info->name, "opt-demo");
  EXPECT_EQ(info->num_layers, 4);
  EXPECT_EQ(info->kv_pool_bytes, int64_t{1} << 40);
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST(Client, AsksWhatARequestWouldCost) {
  const FakeServer server({Says({})});
  const auto forecast = ClientOf(server).CheckAdmission(Ask("hello"));
  ASSERT_TRUE(forecast) << forecast.error().ToString();
  EXPECT_FALSE(forecast->fits_now);
  EXPECT_EQ(forecast->retry_after_seconds, 1.5);
  EXPECT_EQ(forecast->pages, 12);
  EXPECT_EQ(forecast->reason, "the queue is full");
  EXPECT_EQ(server.requests().at(0).text(), "hello");
}

TEST(Client, TokenizesAndBack) {
  const FakeServer server({Whole()});
  const Client client = ClientOf(server);
  EXPECT_THAT(*client.Tokenize("ab"), ElementsAre(2, 'a', 'b'));
  EXPECT_THAT(*client.Tokenize("ab", false), ElementsAre('a', 'b'));
  EXPECT_EQ(*client.Detokenize({'x', 'y'}), "xy");
}

TEST(Client, AsksWhetherTheServerIsReady) {
  FakeServer server({Whole()});
  server.SetReady(true);
  EXPECT_TRUE(*ClientOf(server).IsReady());
  server.SetReady(false);
  EXPECT_FALSE(*ClientOf(server).IsReady());
}

TEST(Client, AdministersTheServer) {
  const FakeServer server({Says({}), Fails(kAway, "gone")});
  const Client client = ClientOf(server);
  EXPECT_EQ(*client.GetStatus(), "{\"groups\":[]}");
  EXPECT_FALSE(client.Drain(0));
  EXPECT_EQ(client.Drain(7)->ToString(), "NOT_FOUND: no group 7");
  EXPECT_EQ(client.GetStatus().error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(server.requests().size(), 2u) << "asked once";
}

// ---- Connections

std::string BadOption(const ClientOptions& options) {
  const auto client = Client::Connect(options);
  if (client) return "it is taken";
  EXPECT_EQ(client.error().code, ErrorCode::kInvalidArgument);
  return client.error().message;
}

TEST(Client, NamesABadOption) {
  ClientOptions options;
  options.server = "nowhere";
  EXPECT_THAT(BadOption(options), HasSubstr("'nowhere' must be HOST:PORT"));
  options.server = "host:0";
  EXPECT_THAT(BadOption(options), HasSubstr("port 0"));
  options.server = "host:1";
  options.api_key = "a b";
  EXPECT_THAT(BadOption(options), HasSubstr("API key"));
  options.api_key.clear();
  options.tls.certificate = "mine.pem";
  EXPECT_THAT(BadOption(options), HasSubstr("needs its key"));
  options.tls = {};
  options.tls.ca = "/no/such/ca.pem";
  EXPECT_THAT(BadOption(options), HasSubstr("/no/such/ca.pem"));
}

std::string FileOf(const char* name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

TEST(Client, ShowsACertificateAndBelievesOne) {
  const NewCertificate ca = MakeCertificate("CA"), other = MakeCertificate("B");
  const NewCertificate host = MakeCertificate("localhost", &ca);
  const NewCertificate mine = MakeCertificate("me", &ca);
  grpc::SslServerCredentialsOptions tls(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  tls.pem_root_certs = ca.pem;
  tls.pem_key_cert_pairs.push_back({host.key_pem, host.pem});
  const FakeServer server({Whole()}, grpc::SslServerCredentials(tls));
  ClientOptions options = OptionsFor(server);
  options.tls.ca = FileOf("ca.pem", ca.pem);
  options.tls.certificate = FileOf("me.pem", mine.pem);
  options.tls.key = FileOf("me.key", mine.key_pem);
  const auto answer = Client::Connect(options)->Generate(Ask(""));
  EXPECT_TRUE(answer) << answer.error().ToString();

  options.retry.enabled = false;
  ClientOptions stranger = options;
  stranger.tls.ca = FileOf("other.pem", other.pem);
  EXPECT_EQ(Client::Connect(stranger)->Generate(Ask("")).error().code,
            ErrorCode::kUnavailable);
  options.tls.certificate.clear();
  options.tls.key.clear();
  EXPECT_EQ(Client::Connect(options)->Generate(Ask("")).error().code,
            ErrorCode::kUnavailable);
}

TEST(ExpectedDeathTest, AValueThatIsNotThereEndsTheProgram) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const Expected<int> none = Error{ErrorCode::kUnavailable, "no group", {}};
  EXPECT_FALSE(none);
  EXPECT_DEATH(static_cast<void>(*none), "UNAVAILABLE: no group");
}

}  // namespace
}  // namespace h2o
