// The public service over real sockets, with a group of workers that is a fake.
#include "coordinator/inference_service.h"

#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "proto/inference.grpc.pb.h"
#include "tests/model/loaded_rank.h"
#include "tests/model/small_config.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;
using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// What the tests want to see of a group.
struct Observed {
  std::mutex mutex;
  std::vector<SequenceSpec> admitted;
  std::vector<uint64_t> retired;
};

// A group that answers each plan at once, or after a delay: token t of a
// sequence is 100 + t.
class FakeGroup final : public WorkerGroup {
 public:
  FakeGroup(Observed* observed, std::chrono::milliseconds delay)
      : observed_(observed), delay_(delay) {
    info_.ranks = {2, LoadedRank(SmallConfig(), 1000)};
  }
  const GroupInfo& info() const override { return info_; }
  absl::Status status() const override {
    std::lock_guard lock(mutex_);
    return aborted_;
  }

  absl::Status Submit(const StepPlan& plan) override {
    std::lock_guard lock(mutex_);
    if (!aborted_.ok()) return aborted_;
    StepResult result;
    result.step = plan.step;
    std::lock_guard observe(observed_->mutex);
    for (uint64_t id : plan.retire) {
      sequences_.erase(id);
      observed_->retired.push_back(id);
    }
    for (const SequenceSpec& sequence : plan.admit) {
      sequences_[sequence.id] = {.max_tokens = sequence.max_tokens};
      observed_->admitted.push_back(sequence);
    }
    const auto emit = [&](uint64_t id) {
      const auto it = sequences_.find(id);
      if (it == sequences_.end() || it->second.made == it->second.max_tokens) {
        return;  // finished; the plan was made ahead
      }
      const int n = it->second.made++;
      result.tokens.push_back({.sequence_id = id,
                               .token = 100 + n,
                               .finish = n + 1 == it->second.max_tokens
                                             ? FinishReason::kLength
                                             : FinishReason::kNone});
    };
    for (const PrefillSlice& slice : plan.prefill) {
      if (slice.layer_end == 2) emit(slice.sequence_ids.at(0));
    }
    for (uint64_t id : plan.decode) emit(id);
    results_.push_back(std::move(result));
    return absl::OkStatus();
  }

  absl::StatusOr<GroupResult> Next() override {
    std::this_thread::sleep_for(delay_);
    std::lock_guard lock(mutex_);
    if (!aborted_.ok()) return aborted_;
    StepResult result = std::move(results_.front());
    results_.pop_front();
    return GroupResult{std::move(result), std::vector<RankSeconds>(info_.tp())};
  }

  void Abort(absl::Status reason) override {
    std::lock_guard lock(mutex_);
    aborted_ = std::move(reason);
  }

 private:
  struct Made {
    int max_tokens = 0;
    int made = 0;
  };

  GroupInfo info_;
  Observed* const observed_;
  const std::chrono::milliseconds delay_;
  mutable std::mutex mutex_;
  std::map<uint64_t, Made> sequences_;
  std::deque<StepResult> results_;
  absl::Status aborted_;
};

class InferenceServiceTest : public ::testing::Test {
 protected:
  void Start(const EngineOptions& options = {}) {
    default_policy_ = options.default_kv_policy;
    engine_ = *Engine::Create(options, SmallConfig(), nullptr, &clock_);
    service_ = std::make_unique<InferenceService>(
        InferenceServiceOptions{.config = SmallConfig(),
                                .default_kv_policy = default_policy_,
                                .version = "1.2.3",
                                .progress = [] { return "0 of 2"; },
                                .client_timeout_seconds = 0.5},
        engine_.get(), &clock_);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    service_->AddTo(&builder);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = "127.0.0.1:" + std::to_string(port);
    channel_ =
        grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }

  void AddGroup(std::chrono::milliseconds delay = 0ms) {
    engine_->AddGroup(std::make_unique<FakeGroup>(&observed_, delay));
  }

  ~InferenceServiceTest() override {
    if (server_ != nullptr) {
      server_->Shutdown(std::chrono::system_clock::now() + 1s);
    }
    server_.reset();
    engine_.reset();
  }

  static v1::GenerateRequest TokensRequest(int max_tokens) {
    v1::GenerateRequest request;
    request.mutable_tokens()->add_ids(2);
    request.set_max_tokens(max_tokens);
    return request;
  }

  struct Answer {
    std::vector<v1::GenerateResponse> messages;
    std::vector<int32_t> tokens;
    grpc::Status status;
    int64_t retry_after_ms = 0;
  };
  Answer Generate(const v1::GenerateRequest& request,
                  std::chrono::milliseconds timeout = 10s) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    const auto reader = stub_->Generate(&context, request);
    Answer answer;
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
      answer.tokens.insert(answer.tokens.end(), message.tokens().begin(),
                           message.tokens().end());
      answer.messages.push_back(message);
    }
    answer.status = reader->Finish();
    const auto& trailing = context.GetServerTrailingMetadata();
    if (const auto told = trailing.find("retry-after-ms");
        told != trailing.end()) {
      answer.retry_after_ms =
          std::stoll(std::string(told->second.data(), told->second.size()));
    }
    return answer;
  }
  v1::AdmissionAnswer Admission(const v1::GenerateRequest& request,
                                grpc::StatusCode expected) {
    grpc::ClientContext context;
    v1::AdmissionAnswer answer;
    EXPECT_EQ(stub_->CheckAdmission(&context, request, &answer).error_code(),
              expected);
    return answer;
  }

  bool BecomesIdle() {
    for (int i = 0; i < 500; ++i) {
      const Engine::Counters counters = engine_->counters();
      if (counters.running == 0 && counters.queued == 0 &&
          counters.slabs_held == 0) {
        return true;
      }
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }

  SteadyClock clock_;
  Observed observed_;
  KvPolicyRequest default_policy_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<InferenceService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(InferenceServiceTest, StreamsTokensAndUsage) {
  Start();
  AddGroup();
  v1::GenerateRequest request = TokensRequest(5);
  request.set_request_id("mine");
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens, (std::vector<int32_t>{100, 101, 102, 103, 104}));
  for (size_t i = 0; i < answer.messages.size(); ++i) {
    const bool last = i + 1 == answer.messages.size();
    EXPECT_EQ(answer.messages[i].request_id(), "mine");
    EXPECT_EQ(answer.messages[i].has_usage(), last);
    EXPECT_EQ(answer.messages[i].finish_reason(),
              last ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_UNSPECIFIED);
  }
  const v1::Usage& usage = answer.messages.back().usage();
  EXPECT_EQ(usage.prompt_tokens(), 1);
  EXPECT_EQ(usage.completion_tokens(), 5);
  EXPECT_GT(usage.kv_bytes(), 0);
  EXPECT_EQ(usage.kv_bytes(), usage.kv_bytes_full());
  EXPECT_TRUE(BecomesIdle());
}

TEST_F(InferenceServiceTest, MakesARequestIdWhereThereIsNone) {
  Start();
  AddGroup();
  const std::string a = Generate(TokensRequest(1)).messages[0].request_id();
  const std::string b = Generate(TokensRequest(1)).messages[0].request_id();
  EXPECT_THAT(a, MatchesRegex("req-[0-9a-f]+"));
  EXPECT_NE(a, b);
}

TEST_F(InferenceServiceTest, DrawsASeedWhereThereIsNone) {
  Start();
  AddGroup();
  v1::GenerateRequest request = TokensRequest(1);
  request.mutable_sampling()->set_temperature(1);
  Generate(request);
  Generate(request);
  request.mutable_sampling()->set_seed(0);
  Generate(request);
  std::lock_guard lock(observed_.mutex);
  ASSERT_EQ(observed_.admitted.size(), 3);
  EXPECT_NE(observed_.admitted[0].sampling.seed,
            observed_.admitted[1].sampling.seed);
  EXPECT_EQ(observed_.admitted[2].sampling.seed, 0);
}

TEST_F(InferenceServiceTest, PoliciesReachTheWorkers) {
  EngineOptions options;
  options.default_kv_policy.name = KvPolicyName::kH2o;
  options.default_kv_policy.budget_tokens = 40;
  Start(options);
  AddGroup();
  v1::GenerateRequest request = TokensRequest(1);
  Generate(request);  // the server's
  request.mutable_kv_policy()->set_name("sink");
  request.mutable_kv_policy()->set_tokens(10);
  Generate(request);
  request.mutable_kv_policy()->clear_name();  // the server's, other budget
  Generate(request);
  request.mutable_kv_policy()->Clear();
  request.mutable_kv_policy()->set_name("h2o");
  request.mutable_kv_policy()->set_heavy(3);
  request.mutable_kv_policy()->set_recent(5);
  Generate(request);
  std::lock_guard lock(observed_.mutex);
  ASSERT_EQ(observed_.admitted.size(), 4);
  const auto slots = [&](int i) {
    return observed_.admitted[i].policy.slots[0];
  };
  EXPECT_EQ(slots(0).heavy, 20);
  EXPECT_EQ(slots(0).recent, 20);
  EXPECT_EQ(slots(1).sinks, 4);
  EXPECT_EQ(slots(1).recent, 6);
  EXPECT_EQ(slots(2).heavy, 5);
  EXPECT_EQ(slots(2).recent, 5);
  EXPECT_EQ(slots(3).heavy, 3);
  EXPECT_EQ(slots(3).recent, 5);
}

TEST_F(InferenceServiceTest, RefusesWhatCannotBe) {
  Start({.kv_budget_cap = 100});
  AddGroup();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  using R = v1::GenerateRequest;
  const auto budget = [](R* r, const char* name) {
    r->mutable_kv_policy()->set_name(name);
    return r->mutable_kv_policy();
  };
  const std::pair<const char*, std::function<void(R*)>> bad[] = {
      {"prompt", [](R* r) { r->clear_tokens(); }},
      {"token", [](R* r) { r->mutable_tokens()->clear_ids(); }},
      {"-1", [](R* r) { r->mutable_tokens()->add_ids(-1); }},
      {"1000", [](R* r) { r->mutable_tokens()->add_ids(1000); }},
      {"tokenizer", [](R* r) { r->set_text("a text, but no tokenizer"); }},
      {"max_tokens is 0", [](R* r) { r->set_max_tokens(0); }},
      {"max_tokens is -7", [](R* r) { r->set_max_tokens(-7); }},
      {"513", [](R* r) { r->set_max_tokens(513); }},
      {"temperature is -0.5",
       [](R* r) { r->mutable_sampling()->set_temperature(-0.5f); }},
      {"temperature is nan",
       [](R* r) { r->mutable_sampling()->set_temperature(kNan); }},
      {"temperature is inf",
       [](R* r) { r->mutable_sampling()->set_temperature(kInfinity); }},
      {"top_k is -1", [](R* r) { r->mutable_sampling()->set_top_k(-1); }},
      {"top_p is 1.5", [](R* r) { r->mutable_sampling()->set_top_p(1.5f); }},
      {"top_p is -0.1", [](R* r) { r->mutable_sampling()->set_top_p(-0.1f); }},
      {"top_p is nan", [](R* r) { r->mutable_sampling()->set_top_p(kNan); }},
      {"'lru'", [&](R* r) { budget(r, "lru"); }},
      {"budget", [&](R* r) { budget(r, "h2o")->set_tokens(0); }},
      {"budget", [&](R* r) { budget(r, "h2o")->set_tokens(-40); }},
      {"101", [&](R* r) { budget(r, "h2o")->set_tokens(101); }},
      {"full", [&](R* r) { budget(r, "full")->set_tokens(40); }},
      {"nan", [&](R* r) { budget(r, "h2o")->set_percent_of_prompt(kNan); }},
      {"0", [&](R* r) { budget(r, "h2o")->set_percent_of_prompt(0); }},
      {"-5", [&](R* r) { budget(r, "sink")->set_percent_of_prompt(-5); }},
      {"100.1", [&](R* r) { budget(r, "sink")->set_percent_of_prompt(100.1); }},
      {"heavy", [&](R* r) { budget(r, "recent")->set_heavy(4); }},
      {"recent", [&](R* r) { budget(r, "h2o")->set_heavy(4); }},
      {"recent", [&](R* r) { budget(r, "h2o")->set_recent(4); }},
      {"-1",
       [&](R* r) {
         budget(r, "h2o")->set_heavy(-1);
         r->mutable_kv_policy()->set_recent(4);
       }},
      {"41",
       [&](R* r) {
         budget(r, "h2o")->set_heavy(4);
         r->mutable_kv_policy()->set_recent(4);
         r->mutable_kv_policy()->set_tokens(41);
       }},
      {"stop[1] is empty",
       [](R* r) {
         r->add_stop(std::string("x"));
         r->add_stop(std::string());
       }},
      {"stop has 17 strings",
       [](R* r) {
         for (int i = 0; i < 17; ++i) r->add_stop(std::string("x"));
       }},
      {"stop[0] has 257 bytes",
       [](R* r) { r->add_stop(std::string(257, 'x')); }},
      {"request_id has 129 bytes",
       [](R* r) { r->set_request_id(std::string(129, 'x')); }},
      {"request_id contains a control character",
       [](R* r) { r->set_request_id("a\nb"); }},
  };
  for (const auto& [says, spoil] : bad) {
    R request = TokensRequest(3);
    spoil(&request);
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << says << ": " << answer.status.error_message();
    EXPECT_THAT(answer.status.error_message(), HasSubstr(says));
    EXPECT_TRUE(answer.messages.empty());
  }
  EXPECT_TRUE(Generate(TokensRequest(3)).status.ok());
}

TEST_F(InferenceServiceTest, HugeRequestsAreRefused) {
  Start();
  AddGroup();
  v1::GenerateRequest request = TokensRequest(1);
  request.set_text(std::string(3 << 20, 'x'));
  EXPECT_EQ(Generate(request).status.error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  // gRPC itself stops what is over its limit of a message.
  request.set_text(std::string(5 << 20, 'x'));
  EXPECT_THAT(Generate(request).status.error_code(),
              AnyOf(grpc::StatusCode::RESOURCE_EXHAUSTED,
                    grpc::StatusCode::INVALID_ARGUMENT));
}

// A request for 512 positions has at most some 32,000 bytes.
TEST_F(InferenceServiceTest, RequestsTooLongForTheModelAreRefusedUnread) {
  Start();
  AddGroup();
  v1::GenerateRequest request = TokensRequest(1);
  for (int i = 0; i < 100'000; ++i) request.mutable_tokens()->add_ids(-1);
  const Answer answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(answer.status.error_message(),
              AllOf(HasSubstr("10000"), HasSubstr("512 positions")));
}

// A call of which only the headers are sent.
class SilentCall final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  SilentCall(grpc::GenericStub* stub, const std::string& method) {
    stub->PrepareBidiStreamingCall(&context_, method, {}, this);
    StartCall();
  }
  ~SilentCall() override {
    context_.TryCancel();
    Wait();
  }
  void OnDone(const grpc::Status& status) override {
    std::lock_guard lock(mutex_);
    status_ = status;
    changed_.notify_all();
  }
  grpc::Status Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return status_.has_value(); });
    return *status_;
  }
  bool ended() {
    std::lock_guard lock(mutex_);
    return status_.has_value();
  }

 private:
  grpc::ClientContext context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<grpc::Status> status_;
};

constexpr char kGenerate[] = "/h2oserve.v1.Inference/Generate";

TEST_F(InferenceServiceTest, ACallWithoutItsRequestIsGivenUp) {
  Start();
  AddGroup();
  grpc::GenericStub stub(channel_);
  std::deque<SilentCall> calls;
  for (int i = 0; i < 20; ++i) calls.emplace_back(&stub, kGenerate);
  EXPECT_FALSE(calls[0].ended());
  while (!calls[0].ended()) {
    service_->Tick();
    std::this_thread::sleep_for(10ms);
  }
  for (SilentCall& call : calls) {
    EXPECT_EQ(call.Wait().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  EXPECT_TRUE(Generate(TokensRequest(5)).status.ok());
}

TEST_F(InferenceServiceTest, ACallCancelledBeforeItsRequestLeavesNothing) {
  Start();
  AddGroup();
  grpc::GenericStub stub(channel_);
  {
    std::deque<SilentCall> calls;
    for (int i = 0; i < 20; ++i) calls.emplace_back(&stub, kGenerate);
  }
  EXPECT_TRUE(Generate(TokensRequest(5)).status.ok());
}

TEST_F(InferenceServiceTest, AClientThatDoesNotReadIsGivenUp) {
  Start();
  AddGroup();
  grpc::ChannelArguments arguments;  // takes few bytes unread
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 16);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  const auto stub = v1::Inference::NewStub(grpc::CreateCustomChannel(
      address_, grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  v1::GenerateRequest request = TokensRequest(500);
  request.set_request_id(std::string(128, 'x'));
  const auto reader = stub->Generate(&context, request);
  for (int i = 0; i < 100; ++i) {  // 1 s
    service_->Tick();
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_TRUE(BecomesIdle());
  v1::GenerateResponse message;
  int tokens = 0;
  while (reader->Read(&message)) tokens += message.tokens_size();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_LT(tokens, 500);
}

TEST_F(InferenceServiceTest, UnknownMethodsAreUnimplemented) {
  Start();
  grpc::GenericStub stub(channel_);
  SilentCall call(&stub, "/h2oserve.v1.Inference/" + std::string(1000, 'x'));
  const grpc::Status status = call.Wait();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_LT(status.error_message().size(), 300);
}

TEST_F(InferenceServiceTest, WithoutAGroupIsUnavailable) {
  Start();
  const Answer answer = Generate(TokensRequest(1));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext context;
  v1::ModelInfo info;
  const grpc::Status status = stub_->GetModelInfo(&context, {}, &info);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("0 of 2"));
}

TEST_F(InferenceServiceTest, ModelInfo) {
  EngineOptions options;
  options.default_kv_policy.name = KvPolicyName::kSink;
  Start(options);
  AddGroup();
  AddGroup();
  grpc::ClientContext context;
  v1::ModelInfo info;
  ASSERT_TRUE(stub_->GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.name(), "small");
  EXPECT_EQ(info.num_layers(), 2);
  EXPECT_EQ(info.num_heads(), 2);
  EXPECT_EQ(info.head_dim(), 8);
  EXPECT_EQ(info.vocab_size(), 1000);
  EXPECT_EQ(info.max_positions(), 512);
  EXPECT_EQ(info.tensor_parallel_size(), 2);
  EXPECT_EQ(info.num_groups(), 2);
  EXPECT_EQ(info.kv_pool_bytes(), 2000 * (32 * (2 * 8 * 4 + 4 + 2) + 64));
  EXPECT_EQ(info.default_kv_policy(), "sink");
  EXPECT_EQ(info.version(), "1.2.3");
}

TEST_F(InferenceServiceTest, AnAnswerIsResumedWithItsSeed) {
  Start();
  AddGroup();
  v1::GenerateRequest request = TokensRequest(5);
  request.mutable_sampling()->set_temperature(1);
  const Answer whole = Generate(request);
  ASSERT_TRUE(whole.status.ok());
  ASSERT_TRUE(whole.messages.front().has_seed());
  request.add_generated(100);
  request.add_generated(101);
  EXPECT_EQ(Generate(request).status.error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_sampling()->set_seed(whole.messages.front().seed());
  const Answer rest = Generate(request);
  ASSERT_TRUE(rest.status.ok());
  EXPECT_EQ(rest.messages.front().tokens(0), 102);
  EXPECT_EQ(rest.messages.front().seed(), whole.messages.front().seed());
  EXPECT_EQ(rest.messages.back().usage().completion_tokens(), 5);
}

TEST_F(InferenceServiceTest, ACancelledStreamFreesItsPages) {
  Start();
  AddGroup(5ms);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, TokensRequest(500));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(BecomesIdle());
  EXPECT_LT(engine_->counters().steps, 250);
}

TEST_F(InferenceServiceTest, TheClientsDeadlineHoldsInDecodeAndInTheQueue) {
  Start({.max_sequences = 1});
  AddGroup(5ms);
  std::thread running([&] {
    EXPECT_EQ(Generate(TokensRequest(500), 400ms).status.error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED);
  });
  std::this_thread::sleep_for(50ms);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(Generate(TokensRequest(500), 100ms).status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 300ms);
  running.join();
  EXPECT_TRUE(BecomesIdle());
}

TEST_F(InferenceServiceTest, AFullQueueRefuses) {
  Start({.max_queue = 1, .max_sequences = 1});
  AddGroup(5ms);
  std::vector<std::thread> calls;
  std::atomic<int> refused = 0, served = 0;
  for (int i = 0; i < 5; ++i) {
    calls.emplace_back([&] {
      const Answer answer = Generate(TokensRequest(50));
      if (answer.status.ok()) {
        ++served;
      } else if (answer.status.error_code() ==
                 grpc::StatusCode::RESOURCE_EXHAUSTED) {
        EXPECT_GT(answer.retry_after_ms, 0);
        ++refused;
      }
    });
    std::this_thread::sleep_for(20ms);
  }
  for (std::thread& call : calls) call.join();
  EXPECT_EQ(served, 2);
  EXPECT_EQ(refused, 3);
}

TEST_F(InferenceServiceTest, AdmissionIsAnswered) {
  Start({.max_sequences = 1});
  Admission(TokensRequest(5), grpc::StatusCode::UNAVAILABLE);
  AddGroup(5ms);
  v1::AdmissionAnswer answer =
      Admission(TokensRequest(5), grpc::StatusCode::OK);
  EXPECT_TRUE(answer.fits_now());
  EXPECT_GT(answer.pages(), 0);
  EXPECT_GT(answer.kv_bytes(), 0);
  Admission(TokensRequest(0), grpc::StatusCode::INVALID_ARGUMENT);
  std::thread running([&] { Generate(TokensRequest(200)); });
  while (engine_->counters().running == 0) std::this_thread::sleep_for(1ms);
  answer = Admission(TokensRequest(5), grpc::StatusCode::OK);
  EXPECT_FALSE(answer.fits_now());
  EXPECT_GT(answer.retry_after_seconds(), 0);
  EXPECT_NE(answer.reason(), "");
  running.join();
  EXPECT_TRUE(BecomesIdle());
}

TEST_F(InferenceServiceTest, ASlowReaderHoldsUpNobody) {
  Start();
  AddGroup();
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, TokensRequest(500));
  // Nothing is read; the sequence ends all the same, and others run.
  EXPECT_TRUE(Generate(TokensRequest(5)).status.ok());
  EXPECT_TRUE(BecomesIdle());
  int tokens = 0;
  v1::GenerateResponse message;
  while (reader->Read(&message)) tokens += message.tokens_size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 500);
}

TEST_F(InferenceServiceTest, ManyStreamsAtOnce) {
  Start();
  AddGroup();
  std::vector<std::thread> calls;
  for (int i = 0; i < 32; ++i) {
    calls.emplace_back([&, i] {
      for (int k = 0; k < 5; ++k) {
        if (i % 3 == 0) {  // some leave early
          grpc::ClientContext context;
          const auto reader = stub_->Generate(&context, TokensRequest(200));
          v1::GenerateResponse message;
          reader->Read(&message);
          context.TryCancel();
          continue;
        }
        const Answer answer = Generate(TokensRequest(20 + i));
        EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
        EXPECT_EQ(answer.tokens.size(), 20 + i);
      }
    });
  }
  for (std::thread& call : calls) call.join();
  EXPECT_TRUE(BecomesIdle());
}

TEST_F(InferenceServiceTest, ALostGroupEndsItsStreams) {
  Start();
  AddGroup(5ms);
  auto group = std::make_unique<FakeGroup>(&observed_, 5ms);
  FakeGroup* lost = group.get();
  engine_->Drain(0);
  // A fresh engine, as this one refuses from now on.
  server_->Shutdown();
  server_.reset();
  Start();
  engine_->AddGroup(std::move(group));
  std::thread killer([&] {
    std::this_thread::sleep_for(100ms);
    lost->Abort(absl::UnavailableError("rank 1 (here) is gone"));
  });
  const Answer answer = Generate(TokensRequest(500));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("rank 1 (here)"));
  EXPECT_FALSE(answer.tokens.empty());
  killer.join();
  EXPECT_EQ(Generate(TokensRequest(1)).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(InferenceServiceTest, DrainingRefusesAndFinishes) {
  Start();
  AddGroup(5ms);
  std::thread running([&] {
    const Answer answer = Generate(TokensRequest(40));
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.tokens.size(), 40);
  });
  std::this_thread::sleep_for(50ms);
  std::thread drain([&] { engine_->Drain(10); });
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(Generate(TokensRequest(1)).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  drain.join();
  running.join();
}

}  // namespace
}  // namespace h2o
