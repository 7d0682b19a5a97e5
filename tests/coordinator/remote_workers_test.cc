// Both ends of the Workers service over real sockets: real doors, fake shards.
#include "coordinator/remote_workers.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/running_clock.h"
#include "proto/wire_id.h"
#include "proto/worker.grpc.pb.h"
#include "tests/model/loaded_rank.h"
#include "tests/model/small_config.h"
#include "worker/worker_service.h"

namespace h2o {
namespace {

namespace wire = h2oserve::worker;

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kPatience = 10s;

// What a fake worker does; by default it loads and answers every plan.
struct Script {
  std::string version = "1.0.0";
  std::string build = "b1";
  std::string device = "cpu";
  std::string host = "host";
  std::optional<ModelConfig> own_config;
  RankInfo info = LoadedRank(SmallConfig(), 100);
  std::function<absl::Status(const Assignment&)> on_load;
  std::function<absl::StatusOr<StepResult>(const StepPlan&)> on_step;
};

// Runs a plan when it is launched.
class ScriptRunner final : public PlanRunner {
 public:
  using Step = std::function<absl::StatusOr<StepResult>(const StepPlan&)>;
  ScriptRunner(RankInfo info, Step step)
      : info_(std::move(info)), step_(std::move(step)) {}
  const RankInfo& info() const override { return info_; }
  absl::Status Launch(const StepPlan& plan) override {
    result_ = step_(plan);
    return result_->status();
  }
  int in_flight() const override { return result_ ? 1 : 0; }
  bool Ready() override { return true; }
  absl::StatusOr<StepResult> Collect() override {
    return *std::exchange(result_, std::nullopt);
  }

 private:
  const RankInfo info_;
  const Step step_;
  std::optional<absl::StatusOr<StepResult>> result_;
};

// A worker's process, as a thread.
class FakeWorker {
 public:
  FakeWorker(int port, int number, Script script)
      : script_(std::move(script)),
        thread_([this, port, number] { Run(port, number); }) {}
  ~FakeWorker() { thread_.join(); }

  // Waits until it has ended.
  absl::Status Verdict() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return ended_; })) {
      return absl::InternalError("the worker has not ended");
    }
    return verdict_;
  }
  bool ended() {
    std::lock_guard lock(mutex_);
    return ended_;
  }
  WorkerEnd end() {
    std::lock_guard lock(mutex_);
    return end_;
  }
  void Leave() { control_.leave = true; }
  std::optional<Assignment> assignment() {
    std::lock_guard lock(mutex_);
    return assignment_;
  }

 private:
  void Run(int port, int number) {
    WorkerServiceOptions options;
    options.coordinator = "127.0.0.1:" + std::to_string(port);
    options.connect_timeout_seconds = 5;
    options.version = script_.version;
    options.build = script_.build;
    options.device = script_.device;
    options.mesh_address = [number] {
      return "10.0.0.1:" + std::to_string(number);
    };
    options.host_id = script_.host;
    options.config = script_.own_config;
    const WorkerVerdict verdict = ServeWorker(
        options,
        [&](const Assignment& assignment, std::function<void(double)> progress)
            -> absl::StatusOr<std::shared_ptr<PlanRunner>> {
          {
            std::lock_guard lock(mutex_);
            assignment_ = assignment;
          }
          progress(0.5);
          if (script_.on_load) {
            absl::Status status = script_.on_load(assignment);
            if (!status.ok()) return status;
          }
          return std::make_shared<ScriptRunner>(
              script_.info, script_.on_step ? script_.on_step : Answer);
        },
        &control_);
    std::lock_guard lock(mutex_);
    verdict_ = verdict.status;
    end_ = verdict.end;
    ended_ = true;
    changed_.notify_all();
  }

 public:
  static StepResult Answer(const StepPlan& plan) {
    StepResult result;
    result.step = plan.step;
    result.checksum = plan.step * 17;
    for (uint64_t id : plan.decode) {
      result.tokens.push_back({.sequence_id = id, .token = 5});
    }
    return result;
  }

 private:
  const Script script_;
  WorkerControl control_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  absl::Status verdict_;
  WorkerEnd end_ = WorkerEnd::kFault;
  std::optional<Assignment> assignment_;
  std::thread thread_;  // last: it uses all of the above
};

class RemoteWorkersTest : public ::testing::Test {
 protected:
  void Start(RemoteWorkersOptions options) {
    options.config = SmallConfig();
    options.model = {.model = "/models/small"};
    options.version = "1.0.0";
    workers_ = std::make_unique<RemoteWorkers>(
        options, &clock_,
        RemoteWorkers::Observers{
            .on_ready =
                [this](std::unique_ptr<WorkerGroup> group) {
                  std::lock_guard lock(mutex_);
                  groups_.push_back(std::move(group));
                  changed_.notify_all();
                },
            .on_over =
                [this](const LostGroup& lost) {
                  std::lock_guard lock(mutex_);
                  over_.push_back(lost);
                  changed_.notify_all();
                },
            .on_left =
                [this](const LostGroup& left) {
                  std::lock_guard lock(mutex_);
                  left_.push_back(left);
                  changed_.notify_all();
                }});
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(workers_->service());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    ticker_ = std::thread([this] {
      while (!stop_) {
        workers_->Tick();
        std::this_thread::sleep_for(20ms);
      }
    });
  }

  ~RemoteWorkersTest() override {
    stop_ = true;
    if (ticker_.joinable()) ticker_.join();
    wake_ = true;
    groups_.clear();
    if (workers_ != nullptr) workers_->Shutdown();
    if (server_ != nullptr) {
      server_->Shutdown(std::chrono::system_clock::now() + 2s);
    }
    fakes_.clear();  // their streams have ended
    server_.reset();
    workers_.reset();
  }

  FakeWorker& Dial(Script script = {}) {
    fakes_.push_back(std::make_unique<FakeWorker>(
        port_, static_cast<int>(fakes_.size()), std::move(script)));
    return *fakes_.back();
  }

  // The group that became ready as the n-th.
  WorkerGroup* Group(size_t n) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience,
                           [&] { return groups_.size() > n; })) {
      return nullptr;
    }
    return groups_[n].get();
  }
  std::string Over(size_t n) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return over_.size() > n; })) {
      return "still on";
    }
    return std::string(over_[n].reason.message());
  }
  // That the n-th group that is over was lost for, with the rank at fault.
  void ExpectFault(size_t n, FaultKind kind, FakeWorker& at_fault) {
    Over(n);  // waits
    std::lock_guard lock(mutex_);
    ASSERT_GT(over_.size(), n);
    const std::optional<Fault>& fault = over_[n].fault;
    ASSERT_TRUE(fault.has_value());
    EXPECT_STREQ(Name(fault->kind), Name(kind));
    EXPECT_EQ(fault->rank, at_fault.assignment()->rank);
    EXPECT_EQ(fault->place.device, "cpu");
    EXPECT_EQ(fault->place.pid, getpid());
    EXPECT_EQ(fault->words, over_[n].reason.message());
    EXPECT_GT(fault->unix_seconds, 1e9);
  }

  // A clock that tests set forward.
  struct Wall final : Clock {
    double Now() const override { return SteadyClock().Now() + ahead; }
    std::atomic<double> ahead = 0;
  };
  Wall wall_;
  RunningClock clock_{&wall_};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<WorkerGroup>> groups_;
  std::vector<LostGroup> over_, left_;
  std::unique_ptr<RemoteWorkers> workers_;
  std::unique_ptr<grpc::Server> server_;
  std::vector<std::unique_ptr<FakeWorker>> fakes_;
  int port_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<bool> wake_ = false;  // ends what hangs, with the test
  std::thread ticker_;
};

StepPlan PlanOf(uint64_t step) {
  StepPlan plan;
  plan.step = step;
  plan.decode = {1, 2};
  return plan;
}

TEST_F(RemoteWorkersTest, FormsAGroupAndRunsSteps) {
  Start({.tp = 2, .max_sequences = 7});
  Dial();
  EXPECT_EQ(workers_->num_ready(), 0);
  Dial();
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  EXPECT_EQ(workers_->num_ready(), 1);
  EXPECT_EQ(group->info().tp(), 2);
  EXPECT_EQ(group->info().ranks[1].num_slabs, 100);
  EXPECT_EQ(group->info().memory().kv_pool,
            200 * group->info().geometry().SlabBytes());
  std::set<int> ranks;
  for (const auto& fake : fakes_) {
    const Assignment assignment = *fake->assignment();
    ranks.insert(assignment.rank);
    EXPECT_EQ(assignment.size, 2);
    EXPECT_EQ(assignment.model.model, "/models/small");
    EXPECT_EQ(assignment.max_sequences, 7);
    EXPECT_EQ(assignment.mesh_addresses.size(), 2);
    EXPECT_EQ(assignment.nonce, fakes_[0]->assignment()->nonce);
    EXPECT_THAT(assignment.mesh_addresses[assignment.rank],
                HasSubstr("10.0.0.1:"));
  }
  EXPECT_EQ(ranks, (std::set<int>{0, 1}));
  // Two in flight, as the engine does.
  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  for (uint64_t step = 1; step <= 200; ++step) {
    ASSERT_TRUE(group->Submit(PlanOf(step + 1)).ok());
    const absl::StatusOr<GroupResult> result = group->Next();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->step.step, step);
    EXPECT_EQ(result->step.tokens.size(), 2);
  }
}

TEST_F(RemoteWorkersTest, StreamsWithoutAHelloLeaveRoomForWorkers) {
  Start({.tp = 1});
  const auto stub = h2oserve::worker::Workers::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port_),
                          grpc::InsecureChannelCredentials()));
  std::deque<grpc::ClientContext> contexts;
  std::vector<decltype(stub->Join(nullptr))> streams;
  for (int i = 0; i < 200; ++i) {
    streams.push_back(stub->Join(&contexts.emplace_back()));
  }
  h2oserve::worker::CoordinatorMessage message;
  EXPECT_FALSE(streams[0]->Read(&message));
  EXPECT_EQ(streams[0]->Finish().error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  Dial();
  EXPECT_NE(Group(0), nullptr);
  for (grpc::ClientContext& context : contexts) context.TryCancel();
  for (size_t i = 1; i < streams.size(); ++i) streams[i]->Finish();
}

TEST_F(RemoteWorkersTest, ShutdownLetsWorkersGo) {
  Start({.tp = 2});
  Dial();
  Dial();
  Dial();  // spare
  ASSERT_NE(Group(0), nullptr);
  std::this_thread::sleep_for(200ms);  // the spare has dialed in
  workers_->Shutdown();
  for (const auto& fake : fakes_) {
    EXPECT_TRUE(fake->Verdict().ok());
    EXPECT_EQ(fake->end(), WorkerEnd::kLetGo);
  }
  EXPECT_TRUE(over_.empty());
}

TEST_F(RemoteWorkersTest, StrangersAreRefusedAndNothingElseIsTouched) {
  Start({.tp = 1, .groups = 2});
  Dial();
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);

  const auto refused = [&](Script script,
                           absl::StatusCode code =
                               absl::StatusCode::kFailedPrecondition) {
    const absl::Status status = Dial(std::move(script)).Verdict();
    EXPECT_EQ(status.code(), code) << status;
    return std::string(status.message());
  };
  // What a stranger would have to say is for the log alone.
  EXPECT_THAT(
      refused({.version = "0.9.0"}),
      AllOf(HasSubstr("another version or build"), Not(HasSubstr("1.0.0"))));
  EXPECT_THAT(
      refused({.build = "b2"}),
      AllOf(HasSubstr("another version or build"), Not(HasSubstr("b1"))));
  EXPECT_EQ(fakes_.back()->end(), WorkerEnd::kRefused);
  ModelConfig other = SmallConfig();
  other.vocab_size = 999;
  EXPECT_THAT(refused({.own_config = other}),
              AllOf(HasSubstr("vocab_size is 999"), HasSubstr("1000")));
  Script script;
  script.info.config = other;
  EXPECT_THAT(refused(script), HasSubstr("vocab_size is 999"));
  script = {};
  script.info.fingerprint = "f2";
  EXPECT_THAT(refused(script), AllOf(HasSubstr("f1"), HasSubstr("f2")));
  script = {};
  script.info.num_slabs = 0;
  EXPECT_THAT(refused(script, absl::StatusCode::kInvalidArgument),
              HasSubstr("num_slabs is 0"));

  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  EXPECT_TRUE(group->Next().ok());
  Dial();
  EXPECT_NE(Group(1), nullptr);
}

// A worker that introduces itself and then says nothing.
class SilentWorker {
 public:
  explicit SilentWorker(int port)
      : stub_(wire::Workers::NewStub(
            grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                                grpc::InsecureChannelCredentials()))),
        stream_(stub_->Join(&context_)) {
    wire::WorkerMessage message;
    wire::Hello* hello = message.mutable_hello();
    hello->set_version("1.0.0");
    hello->set_wire(WireId());
    hello->set_build("b1");
    hello->set_device("cpu");
    hello->set_mesh_address("10.0.0.1:99");
    hello->set_host_id("host");
    stream_->Write(message);
    wire::CoordinatorMessage call;
    EXPECT_TRUE(stream_->Read(&call) && call.has_call());
  }
  ~SilentWorker() { context_.TryCancel(); }

  // Answers one call.
  void Answer() {
    wire::WorkerMessage here;
    here.mutable_here();
    stream_->Write(here);
  }

  // What it is told in the end.
  std::string Verdict() {
    wire::CoordinatorMessage message;
    while (stream_->Read(&message)) EXPECT_FALSE(message.has_plan());
    return stream_->Finish().error_message();
  }

 private:
  const std::unique_ptr<wire::Workers::Stub> stub_;
  grpc::ClientContext context_;
  const std::unique_ptr<
      grpc::ClientReaderWriter<wire::WorkerMessage, wire::CoordinatorMessage>>
      stream_;
};

TEST_F(RemoteWorkersTest, ASilentWorkerHoldsUpNoGroup) {
  Start({.tp = 2, .formation_timeout_seconds = 1});
  SilentWorker silent(port_);
  const auto start = std::chrono::steady_clock::now();
  Dial();
  Dial();
  EXPECT_NE(Group(0), nullptr);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 3s);
  EXPECT_THAT(silent.Verdict(), HasSubstr("did not answer for 1 s"));
}

TEST_F(RemoteWorkersTest, AWorkerThatFallsSilentWhileItLoadsGivesWayToASpare) {
  Start({.tp = 1, .formation_timeout_seconds = 1});
  SilentWorker silent(port_);
  silent.Answer();  // it becomes a rank
  std::this_thread::sleep_for(100ms);
  Dial();
  EXPECT_NE(Group(0), nullptr);
  EXPECT_THAT(Over(0), HasSubstr("did not answer for 1."));
  EXPECT_THAT(silent.Verdict(), HasSubstr("did not answer for 1."));
}

TEST_F(RemoteWorkersTest, RanksWithDifferentWeightsDoNotFormAGroup) {
  Start({.tp = 2});
  Script other;
  other.info.fingerprint = "f2";
  FakeWorker& a = Dial();
  FakeWorker& b = Dial(other);
  const absl::Status first = a.Verdict(), second = b.Verdict();
  // One of them is rank 1 and told; the other learns that it has no group.
  const bool b_told = second.code() == absl::StatusCode::kFailedPrecondition;
  EXPECT_THAT(std::string((b_told ? second : first).message()),
              AllOf(HasSubstr("f1"), HasSubstr("f2")));
  EXPECT_EQ((b_told ? first : second).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Over(0), HasSubstr("fingerprint"));
}

TEST_F(RemoteWorkersTest, ARankThatFailsIsNamed) {
  Start({.tp = 2});
  Script failing;
  failing.on_step = [](const StepPlan&) -> absl::StatusOr<StepResult> {
    return absl::InternalError("a gap in the steps");
  };
  Dial();
  FakeWorker& bad = Dial(failing);
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  const std::string name =
      "rank " + std::to_string(bad.assignment()->rank) + " (10.0.0.1:1, cpu";
  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  const absl::Status status = group->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(name), HasSubstr("a gap in the steps")));
  EXPECT_EQ(bad.Verdict().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(fakes_[0]->Verdict().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Over(0), HasSubstr(name));
  ExpectFault(0, FaultKind::kFailure, bad);
  EXPECT_EQ(workers_->num_ready(), 0);
  EXPECT_FALSE(group->Submit(PlanOf(2)).ok());
}

TEST_F(RemoteWorkersTest, ASilentRankIsNamedAtTheDeadline) {
  Start({.tp = 2, .step_deadline_seconds = 0.5});
  Script silent;
  silent.on_step = [this](const StepPlan& plan) -> absl::StatusOr<StepResult> {
    while (!wake_) std::this_thread::sleep_for(5ms);
    return FakeWorker::Answer(plan);
  };
  // The other one waits for it, gives up first and says so.
  Script waiting;
  waiting.on_step = [](const StepPlan&) -> absl::StatusOr<StepResult> {
    std::this_thread::sleep_for(400ms);
    return absl::UnavailableError("a peer is silent");
  };
  Dial(waiting);
  FakeWorker& bad = Dial(silent);
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  const std::string name =
      "rank " + std::to_string(bad.assignment()->rank) + " (";
  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = group->Next().status();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(name), HasSubstr("is silent for 0."),
                    HasSubstr("past the step deadline")));
  ExpectFault(0, FaultKind::kSilence, bad);
  // The one that only complained is told who it was.
  EXPECT_THAT(std::string(fakes_[0]->Verdict().message()), HasSubstr(name));
}

TEST_F(RemoteWorkersTest,
       TimeInWhichTheCoordinatorDidNotRunCountsAgainstNobody) {
  Start({.tp = 1, .step_deadline_seconds = 3});
  Script slow;
  slow.on_step = [](const StepPlan& plan) -> absl::StatusOr<StepResult> {
    std::this_thread::sleep_for(300ms);
    return FakeWorker::Answer(plan);
  };
  Dial(slow);
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  wall_.ahead = 3600;  // frozen for an hour
  const absl::StatusOr<GroupResult> result = group->Next();
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(workers_->num_ready(), 1);
}

TEST_F(RemoteWorkersTest, AComplaintCountsWhenNobodyIsSilent) {
  Start({.tp = 2, .step_deadline_seconds = 60});
  Script complaining;
  complaining.on_step = [](const StepPlan&) -> absl::StatusOr<StepResult> {
    return absl::UnavailableError("the wire is cut");
  };
  Script slow;
  slow.on_step = [](const StepPlan& plan) -> absl::StatusOr<StepResult> {
    std::this_thread::sleep_for(200ms);
    return FakeWorker::Answer(plan);
  };
  Dial(slow);
  FakeWorker& bad = Dial(complaining);
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = group->Next().status();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("rank " + std::to_string(bad.assignment()->rank)),
                    HasSubstr("reports: the wire is cut")));
  ExpectFault(0, FaultKind::kCollective, bad);
}

TEST_F(RemoteWorkersTest, DivergedRanksAreAnError) {
  Start({.tp = 3});
  Script diverged;
  diverged.on_step = [](const StepPlan& plan) -> absl::StatusOr<StepResult> {
    StepResult result = FakeWorker::Answer(plan);
    result.checksum += 1;
    return result;
  };
  Dial();
  Dial();
  FakeWorker& bad = Dial(diverged);
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  EXPECT_EQ(group->Next().status().code(), absl::StatusCode::kInternal);
  for (const auto& fake : fakes_) {
    EXPECT_EQ(fake->Verdict().code(), absl::StatusCode::kUnavailable);
  }
  ExpectFault(0, FaultKind::kChecksum, bad);
}

TEST_F(RemoteWorkersTest, MalformedResultsEndTheGroup) {
  Start({.tp = 1});
  Script garbled;
  garbled.on_step = [](const StepPlan& plan) -> absl::StatusOr<StepResult> {
    StepResult result = FakeWorker::Answer(plan);
    result.tokens[0].token = 1'000'000;
    return result;
  };
  FakeWorker& bad = Dial(garbled);
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  EXPECT_EQ(group->Next().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(bad.Verdict().code(), absl::StatusCode::kInvalidArgument);
  ExpectFault(0, FaultKind::kProtocol, bad);
}

TEST_F(RemoteWorkersTest, ARankThatCannotLoadEndsItsGroupAndOthersFormANewOne) {
  Start({.tp = 2});
  Script broken;
  broken.on_load = [](const Assignment&) {
    return absl::DataLossError("model-1.safetensors is torn");
  };
  // Longer than the broken one takes to fail.
  Script slow;
  slow.on_load = [](const Assignment&) {
    std::this_thread::sleep_for(100ms);
    return absl::OkStatus();
  };
  FakeWorker& bad = Dial(broken);
  FakeWorker& good = Dial(slow);
  EXPECT_EQ(bad.Verdict().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(good.Verdict().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Over(0), AllOf(HasSubstr("DATA_LOSS"), HasSubstr("is torn")));
  ExpectFault(0, FaultKind::kFailure, bad);
  Dial();
  Dial();
  EXPECT_NE(Group(0), nullptr);
}

TEST_F(RemoteWorkersTest, ASpareTakesThePlaceOfALostGroup) {
  Start({.tp = 1, .groups = 2});
  Script mortal;
  mortal.on_step = [](const StepPlan&) -> absl::StatusOr<StepResult> {
    return absl::InternalError("dies");
  };
  Dial(mortal);
  ASSERT_NE(Group(0), nullptr);
  Dial();
  ASSERT_NE(Group(1), nullptr);
  FakeWorker& spare = Dial();
  std::this_thread::sleep_for(100ms);
  EXPECT_FALSE(spare.assignment().has_value());
  EXPECT_EQ(workers_->num_ready(), 2);
  ASSERT_TRUE(Group(0)->Submit(PlanOf(1)).ok());
  EXPECT_FALSE(Group(0)->Next().ok());
  ASSERT_NE(Group(2), nullptr);
  EXPECT_EQ(workers_->num_ready(), 2);
  EXPECT_TRUE(spare.assignment().has_value());
}

TEST_F(RemoteWorkersTest, GroupsAreOfOneKindOfDeviceAndHostsStayTogether) {
  Start({.tp = 2});
  Dial({.host = "a"});
  Dial({.device = "cuda:0", .host = "b"});
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(workers_->num_ready(), 0);
  Dial({.device = "cuda:1", .host = "b"});
  ASSERT_NE(Group(0), nullptr);
  EXPECT_FALSE(fakes_[0]->assignment().has_value());
}

TEST_F(RemoteWorkersTest, AWorkerThatIsToldToStopLeavesInOrder) {
  Start({.tp = 2});
  FakeWorker& worker = Dial();
  FakeWorker& mate = Dial();
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  EXPECT_TRUE(group->leaving().ok());
  worker.Leave();
  while (group->leaving().ok()) std::this_thread::sleep_for(5ms);
  EXPECT_THAT(
      std::string(group->leaving().message()),
      AllOf(HasSubstr("rank " + std::to_string(worker.assignment()->rank)),
            HasSubstr("was told to stop")));
  // The group goes on until its owner lets it go.
  ASSERT_TRUE(group->Submit(PlanOf(1)).ok());
  EXPECT_TRUE(group->Next().ok());
  group->Release();
  EXPECT_TRUE(worker.Verdict().ok());
  EXPECT_EQ(worker.end(), WorkerEnd::kLeft);
  EXPECT_THAT(std::string(mate.Verdict().message()),
              HasSubstr("was told to stop"));
  EXPECT_EQ(mate.end(), WorkerEnd::kDrained);
  EXPECT_FALSE(group->status().ok());
  std::lock_guard lock(mutex_);
  ASSERT_EQ(left_.size(), 1);
  EXPECT_EQ(left_[0].pids.size(), 2);
  EXPECT_TRUE(over_.empty());
}

TEST_F(RemoteWorkersTest, AGroupDrainsWhenItIsTold) {
  Start({.tp = 1, .groups = 2});
  FakeWorker& worker = Dial();
  WorkerGroup* group = Group(0);
  ASSERT_NE(group, nullptr);
  EXPECT_THAT(std::string(workers_->DrainGroup(1).message()),
              AllOf(HasSubstr("no group 1"), HasSubstr("there is 0")));
  EXPECT_TRUE(workers_->DrainGroup(0).ok());
  EXPECT_THAT(std::string(group->leaving().message()),
              HasSubstr("told to drain"));
  FakeWorker& spare = Dial();
  ASSERT_NE(Group(1), nullptr);
  EXPECT_EQ(spare.assignment()->group, 1);
  group->Release();
  EXPECT_FALSE(worker.Verdict().ok());
  EXPECT_EQ(worker.end(), WorkerEnd::kDrained);
  EXPECT_EQ(workers_->num_ready(), 1);
}

TEST_F(RemoteWorkersTest, ALoadThatHangsIsNoticed) {
  Start({.tp = 1, .load_deadline_seconds = 0.3});
  Script hanging;
  hanging.on_load = [this](const Assignment&) {
    while (!wake_) std::this_thread::sleep_for(5ms);
    return absl::OkStatus();
  };
  Dial(hanging);
  EXPECT_THAT(Over(0), HasSubstr("while loading"));
}

TEST_F(RemoteWorkersTest, TheEngineMayLetAGroupGo) {
  Start({.tp = 1});
  FakeWorker& worker = Dial();
  ASSERT_NE(Group(0), nullptr);
  Group(0)->Abort(absl::UnavailableError("not wanted"));
  EXPECT_THAT(std::string(worker.Verdict().message()), HasSubstr("not wanted"));
  EXPECT_FALSE(Group(0)->Submit(PlanOf(1)).ok());
}

TEST(WorkerServiceTest, WithoutACoordinatorItGivesUpInTime) {
  WorkerServiceOptions options;
  options.coordinator = "127.0.0.1:1";
  options.connect_timeout_seconds = 0.3;
  // Where others reach this worker is known once the coordinator is there.
  bool asked = false;
  options.mesh_address = [&] {
    asked = true;
    return "10.0.0.1:1";
  };
  WorkerControl control;
  const WorkerVerdict verdict =
      ServeWorker(options, /*load=*/nullptr, &control);
  EXPECT_EQ(verdict.end, WorkerEnd::kCoordinatorLost);
  const absl::Status& status = verdict.status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:1"));
  EXPECT_FALSE(asked);
}

TEST_F(RemoteWorkersTest, WorkersNoticeThatTheCoordinatorIsGone) {
  Start({.tp = 1});
  FakeWorker& worker = Dial();
  ASSERT_NE(Group(0), nullptr);
  // At once, without a word to anyone.
  server_->Shutdown(std::chrono::system_clock::now());
  const absl::Status status = worker.Verdict();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("coordinator 127.0.0.1"));
}

}  // namespace
}  // namespace h2o
