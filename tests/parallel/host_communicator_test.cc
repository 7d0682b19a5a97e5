// Checks the communicators of processes: sums, failures and timeouts.
#include "parallel/host_communicator.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/base/seconds_since.h"
#include "tests/parallel/communicator_bodies.h"
#include "tests/parallel/dial_port.h"

namespace h2o {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

MeshListener Listen(const std::string& address = "127.0.0.1:0") {
  auto listener = MeshListener::Bind(address);
  EXPECT_TRUE(listener.ok()) << listener.status().ToString();
  return *std::move(listener);
}

bool SharesMemory() {
  std::ifstream maps("/proc/self/maps");
  const std::string text(std::istreambuf_iterator<char>(maps), {});
  return text.find("/dev/shm/h2oserve-") != std::string::npos;
}

// A group of forked processes; the body runs in each of them.
class Group {
 public:
  Group(int size, bool tcp) {
    static uint64_t formation = 0;
    options_.size = size;
    options_.tcp_only = tcp;
    options_.nonce = (static_cast<uint64_t>(getpid()) << 20) + ++formation;
    options_.secret = std::string(kMeshSecretBytes, 's');
    options_.connect_timeout_seconds = 30;
    options_.host_ids.assign(size, ThisHostId());
    for (int k = 0; k < size; ++k) {
      listeners_.push_back(Listen());
      options_.addresses.push_back(listeners_.back().address());
    }
    EXPECT_EQ(pipe(told_), 0);
  }
  ~Group() {
    for (const int end : told_) close(end);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  MeshOptions& options() { return options_; }

  // `adjust` may change what one rank believes.
  void Start(const testing::RankBody& body,
             const std::function<void(MeshOptions*)>& adjust = {}) {
    std::fflush(nullptr);
    for (int k = 0; k < options_.size; ++k) {
      const pid_t pid = fork();
      ASSERT_GE(pid, 0);
      if (pid == 0) RunChild(k, body, adjust);
      pids_[k] = pid;
    }
    listeners_.clear();
  }

  // A rank says how far it is, and the test waits until all have.
  void Tell() { EXPECT_EQ(write(told_[1], "x", 1), 1); }
  void AwaitAll() {
    for (int k = 0; k < options_.size; ++k) {
      char x;
      EXPECT_EQ(read(told_[0], &x, 1), 1);
    }
  }

  void Signal(int rank, int signal) { kill(pids_[rank], signal); }

  // Forgets a rank that does not end by itself.
  void KillAndForget(int rank) {
    Signal(rank, SIGKILL);
    waitpid(pids_[rank], nullptr, 0);
    pids_.erase(rank);
  }

  void ExpectAllPass() {
    for (const auto& [rank, pid] : pids_) {
      int status = 0;
      waitpid(pid, &status, 0);
      EXPECT_EQ(status, 0) << "rank " << rank << " of " << options_.size;
    }
    pids_.clear();
  }

 private:
  [[noreturn]] void RunChild(int rank, const testing::RankBody& body,
                             const std::function<void(MeshOptions*)>& adjust) {
    alarm(100);  // an orphan ends
    MeshListener mine = std::move(listeners_[rank]);
    listeners_.clear();
    options_.rank = rank;
    if (adjust) adjust(&options_);
    auto c = ConnectMesh(std::move(mine), options_);
    EXPECT_TRUE(c.ok()) << c.status().ToString();
    if (c.ok()) body(c->get());
    std::fflush(nullptr);
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }

  MeshOptions options_;
  std::vector<MeshListener> listeners_;
  std::map<int, pid_t> pids_;
  int told_[2];
};

// ---- The bodies

enum class Kind { kShm, kTcp };
std::string Name(Kind kind) { return kind == Kind::kShm ? "Shm" : "Tcp"; }

class HostCommunicatorBodies : public ::testing::TestWithParam<
                                   std::tuple<testing::NamedBody, int, Kind>> {
};

TEST_P(HostCommunicatorBodies, Pass) {
  const auto& [body, size, kind] = GetParam();
  Group group(size, kind == Kind::kTcp);
  const bool shm = kind == Kind::kShm && size > 1;
  group.Start([&body = body, shm](Communicator* c) {
    EXPECT_EQ(SharesMemory(), shm);
    body.run(c);
  });
  group.ExpectAllPass();
}

INSTANTIATE_TEST_SUITE_P(
    All, HostCommunicatorBodies,
    ::testing::Combine(::testing::ValuesIn(testing::kBodies),
                       ::testing::ValuesIn(testing::kSizes),
                       ::testing::Values(Kind::kShm, Kind::kTcp)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).name) + "Of" +
             std::to_string(std::get<1>(info.param)) +
             Name(std::get<2>(info.param));
    });

// ---- Faults

class HostCommunicator : public ::testing::TestWithParam<Kind> {
 protected:
  bool tcp() const { return GetParam() == Kind::kTcp; }
};

INSTANTIATE_TEST_SUITE_P(All, HostCommunicator,
                         ::testing::Values(Kind::kShm, Kind::kTcp),
                         [](const auto& info) { return Name(info.param); });

// Sums of all sizes until one fails.
absl::Status SumUntilFailure(Communicator* c) {
  std::vector<float> data(1 << 20);
  for (int64_t count = 1;; count = count * 2 % 2097143) {
    if (count > int64_t(data.size())) continue;
    const absl::Status status = c->AllReduceSum(data.data(), count);
    if (!status.ok()) return status;
  }
}

void ExpectNames(const absl::Status& status, int rank,
                 const MeshOptions& options) {
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status.ToString();
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr(absl::StrCat("rank ", rank, " at ", options.addresses[rank])));
}

TEST_P(HostCommunicator, SurvivorsOfAKilledRankNameItWithinASecond) {
  for (int size : {2, 3, 4}) {
    Group group(size, tcp());
    const int victim = size / 2;
    group.Start([&](Communicator* c) {
      testing::ExpectSum(c, 100);
      group.Tell();
      const absl::Status status = SumUntilFailure(c);
      ExpectNames(status, victim, group.options());
    });
    group.AwaitAll();
    std::this_thread::sleep_for(milliseconds(100));
    const auto start = Steady::now();
    group.KillAndForget(victim);
    group.ExpectAllPass();
    EXPECT_LT(SecondsSince(start), 1.0);
  }
}

TEST_P(HostCommunicator, ARankKilledBeforeItComesIsNamed) {
  Group group(3, tcp());
  group.Start([&](Communicator* c) {
    testing::ExpectSum(c, 100);
    group.Tell();
    if (c->rank() == 2) pause();
    float x = 1;
    ExpectNames(c->AllReduceSum(&x, 1), 2, group.options());
    ExpectNames(c->AllReduceSum(&x, 1), 2, group.options());
  });
  group.AwaitAll();
  std::this_thread::sleep_for(milliseconds(100));
  const auto start = Steady::now();
  group.KillAndForget(2);
  group.ExpectAllPass();
  EXPECT_LT(SecondsSince(start), 1.0);
}

TEST_P(HostCommunicator, ASilentRankIsNamedAtTheTimeout) {
  Group group(3, tcp());
  group.options().operation_timeout_seconds = 0.5;
  group.Start([&](Communicator* c) {
    testing::ExpectSum(c, 100);
    group.Tell();
    ExpectNames(SumUntilFailure(c), 1, group.options());
  });
  group.AwaitAll();
  const auto start = Steady::now();
  group.Signal(1, SIGSTOP);
  std::this_thread::sleep_for(milliseconds(300));
  std::thread killer([&] {
    std::this_thread::sleep_for(milliseconds(1500));
    group.Signal(1, SIGKILL);
  });
  killer.join();
  group.KillAndForget(1);
  group.ExpectAllPass();
  EXPECT_LT(SecondsSince(start), 3.0);
}

TEST_P(HostCommunicator, ARankThatDidNotRunItselfBlamesNobody) {
  Group group(2, tcp());
  group.options().operation_timeout_seconds = 1.5;
  group.Start([&](Communicator* c) {
    testing::ExpectSum(c, 100);
    group.Tell();
    // Rank 0 waits for 2.4 s, of which it runs 0.4 s.
    if (c->rank() == 1) std::this_thread::sleep_for(milliseconds(2400));
    testing::ExpectSum(c, 100);
  });
  group.AwaitAll();
  std::this_thread::sleep_for(milliseconds(200));
  group.Signal(0, SIGSTOP);
  std::this_thread::sleep_for(milliseconds(2000));
  group.Signal(0, SIGCONT);
  group.ExpectAllPass();
}

TEST_P(HostCommunicator, AbortEndsAWaitAndPeersNameTheRank) {
  Group group(3, tcp());
  group.Start([&](Communicator* c) {
    float x = 1;
    if (c->rank() == 2) {
      // Comes when all is over.  What had arrived by then still counts, so
      // the first sum may be complete.
      sleep(1);
      absl::Status status = c->AllReduceSum(&x, 1);
      if (status.ok()) status = c->AllReduceSum(&x, 1);
      ExpectNames(status, 0, group.options());
      return;
    }
    const auto start = Steady::now();
    std::thread aborter([&] {
      std::this_thread::sleep_for(milliseconds(200));
      if (c->rank() == 0) c->Abort(absl::CancelledError("enough"));
    });
    const absl::Status status = c->AllReduceSum(&x, 1);
    if (c->rank() == 0) {
      EXPECT_EQ(status, absl::CancelledError("enough"));
      EXPECT_EQ(c->AllReduceSum(&x, 1), absl::CancelledError("enough"));
    } else {
      ExpectNames(status, 0, group.options());
    }
    EXPECT_LT(SecondsSince(start), 0.8);
    aborter.join();
    sleep(2);  // so that no other connection closes before rank 2 has looked
  });
  group.ExpectAllPass();
}

TEST_P(HostCommunicator, RanksOutOfStepFail) {
  Group group(2, tcp());
  group.Start(testing::OutOfStep);
  group.ExpectAllPass();
}

TEST_P(HostCommunicator, WaitingForASlowRankSleeps) {
  Group group(2, tcp());
  group.Start([](Communicator* c) {
    testing::ExpectSum(c, 10);
    if (c->rank() == 1) {
      std::this_thread::sleep_for(milliseconds(1000));
      testing::ExpectSum(c, 10);
      return;
    }
    timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    testing::ExpectSum(c, 10);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    const double cpu =
        after.tv_sec - before.tv_sec + (after.tv_nsec - before.tv_nsec) * 1e-9;
    EXPECT_LT(cpu, 0.1);
  });
  group.ExpectAllPass();
}

// ---- Which of the two ways

TEST(ConnectMesh, RanksOnSeveralHostsUseTcp) {
  Group group(3, false);
  group.options().host_ids[1] = "another host";
  group.Start([](Communicator* c) {
    EXPECT_FALSE(SharesMemory());
    testing::ManyOperations(c);
  });
  group.ExpectAllPass();
}

TEST(ConnectMesh, OneRankThatCannotShareMovesAllToTcp) {
  for (int odd : {0, 2}) {
    Group group(3, false);
    group.Start(
        [](Communicator* c) {
          EXPECT_FALSE(SharesMemory());
          testing::ExpectSum(c, 1000);
        },
        [odd](MeshOptions* options) {
          if (options->rank == odd) options->host_ids[0] = "elsewhere";
        });
    group.ExpectAllPass();
  }
}

TEST(ConnectMesh, LeavesNothingInDevShm) {
  Group group(2, false);
  group.Start([](Communicator* c) {
    testing::ExpectSum(c, 10);
    sleep(1);
  });
  std::this_thread::sleep_for(milliseconds(500));
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    EXPECT_EQ(
        entry.path().string().find(absl::StrCat(
            "h2oserve-", absl::Hex(group.options().nonce, absl::kZeroPad16))),
        std::string::npos);
  }
  group.ExpectAllPass();
}

// ---- Forming the mesh; ranks are threads here

MeshOptions TwoRanks(const MeshListener& a, const MeshListener& b) {
  MeshOptions options;
  options.size = 2;
  options.addresses = {a.address(), b.address()};
  options.host_ids = {"a", "b"};
  options.nonce = 77;
  options.secret = std::string(kMeshSecretBytes, 's');
  options.connect_timeout_seconds = 20;
  return options;
}

// Connects both ranks and sums; returns how long that took.
double ConnectTwoAndSum(MeshListener a, MeshListener b, MeshOptions options) {
  const auto start = Steady::now();
  std::thread other([&b, options]() mutable {
    options.rank = 1;
    auto c = ConnectMesh(std::move(b), options);
    ASSERT_TRUE(c.ok()) << c.status().ToString();
    testing::ExpectSum(c->get(), 1000);
  });
  auto c = ConnectMesh(std::move(a), options);
  EXPECT_TRUE(c.ok()) << c.status().ToString();
  if (c.ok()) testing::ExpectSum(c->get(), 1000);
  other.join();
  return SecondsSince(start);
}

TEST(FormMesh, StrangersChangeNothing) {
  MeshListener a = Listen(), b = Listen();
  const MeshOptions options = TwoRanks(a, b);
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 5; ++i) strangers.push_back(DialPort(a.port()));
  const std::string web = "GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n";
  const std::string many(100000, '\x5a');
  const std::string few = "1";
  std::string half("1h2omesh", 8);  // the magic number, and then nonsense
  half.append(32, '\xff');
  const std::string* words[] = {&web, &many, &few, &half};
  for (int i = 0; i < 4; ++i) {  // the fifth says nothing
    send(strangers[i].get(), words[i]->data(), words[i]->size(),
         MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  strangers.push_back(DialPort(a.port()));
  strangers.back().Close();
  EXPECT_LT(ConnectTwoAndSum(std::move(a), std::move(b), options), 1.0);
}

TEST(FormMesh, MoreSilentCallersThanAreKeptChangeNothing) {
  MeshListener a = Listen(), b = Listen();
  const MeshOptions options = TwoRanks(a, b);
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 400; ++i) strangers.push_back(DialPort(a.port()));
  EXPECT_LT(ConnectTwoAndSum(std::move(a), std::move(b), options), 5.0);
}

// Rank 0 refuses a rank 1 that believes what `adjust` says, which reports
// `problem`, and takes the right one afterwards.
void ExpectStrangerIsRefused(const std::function<void(MeshOptions*)>& adjust,
                             const std::string& problem) {
  MeshListener a = Listen(), b = Listen();
  MeshOptions options = TwoRanks(a, b);
  std::thread stranger([&, options]() mutable {
    options.rank = 1;
    adjust(&options);
    options.connect_timeout_seconds = 0.5;
    auto c = ConnectMesh(Listen(), options);
    EXPECT_EQ(c.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(c.status().message()),
                AllOf(HasSubstr("rank 0 at " + options.addresses[0]),
                      HasSubstr(problem)));
  });
  std::this_thread::sleep_for(milliseconds(100));
  // Rank 0 is up for as long as the stranger tries; then the right one comes.
  std::thread right([&b, options, &stranger]() mutable {
    stranger.join();
    options.rank = 1;
    auto c = ConnectMesh(std::move(b), options);
    ASSERT_TRUE(c.ok()) << c.status().ToString();
    testing::ExpectSum(c->get(), 10);
  });
  auto c = ConnectMesh(std::move(a), options);
  ASSERT_TRUE(c.ok()) << c.status().ToString();
  testing::ExpectSum(c->get(), 10);
  right.join();
}

TEST(FormMesh, RankOfAnotherFormationIsRefused) {
  ExpectStrangerIsRefused([](MeshOptions* o) { o->nonce = 76; },
                          "another formation");
}

TEST(FormMesh, RankThatDoesNotKnowTheSecretIsRefused) {
  ExpectStrangerIsRefused(
      [](MeshOptions* o) { o->secret = std::string(kMeshSecretBytes, 't'); },
      "does not know the secret");
}

// It knows what travels in the clear: the nonce, and what others have sent.
TEST(FormMesh, ACallerThatCannotProveTheSecretIsRefused) {
  struct Word {
    uint64_t magic = 0x6873656d6f326831;
    uint32_t version = 2, verdict = 0;
    uint64_t nonce = 77;
    uint32_t from = 1, to = 0, size = 2, reserved = 0;
    uint8_t challenge[16] = {}, proof[32] = {};
  };
  static_assert(sizeof(Word) == 88);
  MeshListener a = Listen(), b = Listen();
  MeshOptions options = TwoRanks(a, b);
  std::thread liar([port = a.port()] {
    const UniqueFd fd = DialPort(port);
    const Word call;
    send(fd.get(), &call, sizeof(call), MSG_NOSIGNAL);
    Word answer;
    ASSERT_EQ(recv(fd.get(), &answer, sizeof(answer), MSG_WAITALL), 88);
    EXPECT_EQ(answer.verdict, 6u);  // its challenge, and its proof
    Word echo = answer;             // the listener's own proof is no caller's
    echo.verdict = 7;
    echo.from = 1;
    echo.to = 0;
    send(fd.get(), &echo, sizeof(echo), MSG_NOSIGNAL);
    ASSERT_EQ(recv(fd.get(), &answer, sizeof(answer), MSG_WAITALL), 88);
    EXPECT_EQ(answer.verdict, 8u);  // wrong
    EXPECT_EQ(recv(fd.get(), &answer, sizeof(answer), MSG_WAITALL), 0);
  });
  std::thread right([&b, options, &liar]() mutable {
    liar.join();
    options.rank = 1;
    auto c = ConnectMesh(std::move(b), options);
    ASSERT_TRUE(c.ok()) << c.status().ToString();
    testing::ExpectSum(c->get(), 10);
  });
  auto c = ConnectMesh(std::move(a), options);
  ASSERT_TRUE(c.ok()) << c.status().ToString();
  testing::ExpectSum(c->get(), 10);
  right.join();
}

TEST(FormMesh, RankOfAnotherSizeIsRefused) {
  MeshListener a = Listen(), b = Listen(), c = Listen();
  MeshOptions options = TwoRanks(a, b);
  options.connect_timeout_seconds = 0.5;
  std::thread odd([&b, &c, three = MeshOptions(options)]() mutable {
    three.size = 3;
    three.rank = 1;
    three.addresses.push_back(c.address());
    three.host_ids.push_back("c");
    three.connect_timeout_seconds = 0.3;
    const auto mesh = FormMesh(std::move(b), three);
    EXPECT_THAT(
        std::string(mesh.status().message()),
        AllOf(HasSubstr("another number of ranks"),
              HasSubstr("rank 2 at " + c.address() + ": did not call")));
  });
  const auto mesh = FormMesh(std::move(a), options);
  EXPECT_EQ(mesh.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(mesh.status().message()),
      HasSubstr("rank 1 at " + options.addresses[1] + ": did not call"));
  odd.join();
}

TEST(FormMesh, TakesNamesAndIpv6) {
  for (const char* address : {"localhost:0", "[::1]:0"}) {
    auto probe = MeshListener::Bind(address);
    if (!probe.ok()) continue;  // a host without IPv6
    MeshListener a = Listen(address), b = Listen(address);
    EXPECT_THAT(a.address(), HasSubstr(absl::StrCat(":", a.port())));
    const MeshOptions options = TwoRanks(a, b);
    EXPECT_LT(ConnectTwoAndSum(std::move(a), std::move(b), options), 5.0);
  }
}

TEST(FormMesh, UnknownHostIsNamed) {
  MeshListener a = Listen(), b = Listen();
  MeshOptions options = TwoRanks(a, b);
  options.rank = 1;
  options.addresses[0] = "no-such-host.invalid:1";
  options.connect_timeout_seconds = 0.2;
  const auto mesh = FormMesh(std::move(b), options);
  EXPECT_EQ(mesh.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(mesh.status().message()),
              HasSubstr("no-such-host.invalid"));
}

TEST(FormMesh, ContradictoryOptionsAreRefused) {
  const auto refused = [](const MeshOptions& options) {
    return FormMesh(Listen(), options).status().code() ==
           absl::StatusCode::kInvalidArgument;
  };
  const MeshOptions good = TwoRanks(Listen(), Listen());
  MeshOptions bad = good;
  bad.rank = 2;
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.addresses.pop_back();
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.addresses[0] = "nowhere";
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.size = 0;
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.secret.clear();
  EXPECT_TRUE(refused(bad));
}

TEST(MeshListener, RefusesMalformedAddresses) {
  for (const char* address :
       {"", ":", "host", "host:", ":1", "host:x", "host:-1", "host:65536",
        "::1:80", "[]:1", "[::1]"}) {
    EXPECT_EQ(MeshListener::Bind(address).status().code(),
              absl::StatusCode::kInvalidArgument)
        << address;
  }
}

TEST(MeshListener, AtAllAddressesHearsBothKinds) {
  const auto listener = MeshListener::Bind("[::]:0");
  if (!listener.ok()) GTEST_SKIP() << listener.status();
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(listener->port()));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0)
      << std::strerror(errno);
}

TEST(MeshListener, NamesAnAddressInUse) {
  const MeshListener first = Listen();
  const auto second = MeshListener::Bind(first.address());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(first.address()));
}

TEST(ThisHostId, IsTheSameEveryTime) {
  EXPECT_FALSE(ThisHostId().empty());
  EXPECT_EQ(ThisHostId(), ThisHostId());
}

}  // namespace
}  // namespace h2o
