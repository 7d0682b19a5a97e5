// allreduce_bench: how long one AllReduceSum takes, over each kind of
// Communicator.
//
// Every rank checks every element of the first and of the last sum.  A row
// gives the median over the measured operations of rank 0, and its 10th and
// 90th percentile; algbw is bytes / time, busbw is algbw * 2 (n - 1) / n, which
// compares with the speed of memory or of the network whatever n is.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "parallel/host_communicator.h"
#include "parallel/thread_communicator.h"

namespace h2o {
namespace {

struct Options {
  std::string kind = "thread";
  int ranks = 2;
  std::vector<int64_t> bytes = {2 << 10, 64 << 10, 1 << 20};
  double seconds = 0.5;  // measured, for each size
  bool pin = false;      // rank k to core k
};

struct Row {
  int64_t bytes = 0;
  int operations = 0;
  double median_us = 0, p10_us = 0, p90_us = 0;
};

float ValueOf(int rank, int64_t i) {
  return static_cast<float>((i * 7 + rank * 13) % 1001) * 0.37f;
}

void Fill(int rank, std::vector<float>* data) {
  for (size_t i = 0; i < data->size(); ++i) (*data)[i] = ValueOf(rank, i);
}

void Verify(const std::vector<float>& data, int ranks) {
  for (size_t i = 0; i < data.size(); ++i) {
    float sum = ValueOf(0, i);
    for (int k = 1; k < ranks; ++k) sum += ValueOf(k, i);
    H2O_CHECK(data[i] == sum)
        << "element " << i << " is " << data[i] << " instead of " << sum;
  }
}

void Sum(Communicator* communicator, std::vector<float>* data) {
  const absl::Status status =
      communicator->AllReduceSum(data->data(), data->size());
  H2O_CHECK(status.ok()) << status.ToString();
}

double MicrosecondsOf(Communicator* communicator, std::vector<float>* data) {
  const SteadyClock clock;
  const double start = clock.Now();
  Sum(communicator, data);
  return (clock.Now() - start) * 1e6;
}

// All ranks run the same number of operations: rank 0 proposes, a sum tells.
int AgreeOnOperations(Communicator* communicator, const Options& options,
                      std::vector<float>* data) {
  constexpr int kTrial = 20;
  double us = 0;
  for (int i = 0; i < kTrial; ++i) us += MicrosecondsOf(communicator, data);
  float count = 0;
  if (communicator->rank() == 0) {
    count = static_cast<float>(static_cast<int>(
        std::clamp(options.seconds * 1e6 * kTrial / us, 20.0, 1e5)));
  }
  const absl::Status status = communicator->AllReduceSum(&count, 1);
  H2O_CHECK(status.ok()) << status.ToString();
  return static_cast<int>(count);
}

Row Measure(Communicator* communicator, const Options& options, int64_t bytes) {
  std::vector<float> data(bytes / sizeof(float));
  Fill(communicator->rank(), &data);
  Sum(communicator, &data);
  Verify(data, options.ranks);

  const int operations = AgreeOnOperations(communicator, options, &data);
  std::fill(data.begin(), data.end(), 0.f);  // sums stay finite
  std::vector<double> us(operations);
  for (double& t : us) t = MicrosecondsOf(communicator, &data);

  Fill(communicator->rank(), &data);
  Sum(communicator, &data);
  Verify(data, options.ranks);

  std::sort(us.begin(), us.end());
  return {bytes, operations, us[operations / 2], us[operations / 10],
          us[operations * 9 / 10]};
}

// Ranks that do nothing but wake each other tend to share one core; ranks that
// compute in between do not.  Pinning shows the latter.
void Pin(int rank) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(rank % std::thread::hardware_concurrency(), &cpus);
  H2O_CHECK(sched_setaffinity(0, sizeof(cpus), &cpus) == 0) << "rank " << rank;
}

std::vector<Row> RunRank(Communicator* communicator, const Options& options) {
  if (options.pin) Pin(communicator->rank());
  std::vector<Row> rows;
  for (int64_t bytes : options.bytes) {
    rows.push_back(Measure(communicator, options, bytes));
  }
  return rows;
}

std::vector<Row> RunThreads(const Options& options) {
  auto ranks = MakeThreadCommunicators(options.ranks, 60);
  std::vector<std::thread> threads;
  for (int k = 1; k < options.ranks; ++k) {
    threads.emplace_back([&, k] { RunRank(ranks[k].get(), options); });
  }
  std::vector<Row> rows = RunRank(ranks[0].get(), options);
  for (std::thread& t : threads) t.join();
  return rows;
}

std::vector<Row> RunProcesses(const Options& options) {
  std::vector<MeshListener> listeners;
  MeshOptions mesh;
  mesh.size = options.ranks;
  mesh.nonce = static_cast<uint64_t>(getpid());
  mesh.tcp_only = options.kind == "tcp";
  for (int k = 0; k < options.ranks; ++k) {
    auto listener = MeshListener::Bind("127.0.0.1:0");
    H2O_CHECK(listener.ok()) << listener.status().ToString();
    mesh.addresses.push_back(listener->address());
    mesh.host_ids.push_back(ThisHostId());
    listeners.push_back(*std::move(listener));
  }
  std::vector<pid_t> children;
  for (int k = 1; k < options.ranks; ++k) {
    const pid_t pid = fork();
    H2O_CHECK(pid >= 0) << "fork";
    if (pid == 0) {
      mesh.rank = k;
      auto communicator = ConnectMesh(std::move(listeners[k]), mesh);
      H2O_CHECK(communicator.ok()) << communicator.status().ToString();
      RunRank(communicator->get(), options);
      _exit(0);
    }
    children.push_back(pid);
  }
  auto communicator = ConnectMesh(std::move(listeners[0]), mesh);
  H2O_CHECK(communicator.ok()) << communicator.status().ToString();
  std::vector<Row> rows = RunRank(communicator->get(), options);
  for (pid_t pid : children) {
    int status = 0;
    waitpid(pid, &status, 0);
    H2O_CHECK(status == 0) << "a rank failed";
  }
  return rows;
}

void Print(const Options& options, const std::vector<Row>& rows) {
  std::printf("%s, %d ranks, %u cores\n", options.kind.c_str(), options.ranks,
              std::thread::hardware_concurrency());
  std::printf("%10s %10s %10s %10s %12s %12s %8s\n", "bytes", "median us",
              "p10", "p90", "algbw GB/s", "busbw GB/s", "ops");
  nlohmann::json results = nlohmann::json::array();
  for (const Row& row : rows) {
    const double algbw = row.bytes / row.median_us * 1e-3;
    const double busbw = algbw * 2 * (options.ranks - 1) / options.ranks;
    std::printf("%10ld %10.1f %10.1f %10.1f %12.3f %12.3f %8d\n",
                static_cast<long>(row.bytes), row.median_us, row.p10_us,
                row.p90_us, algbw, busbw, row.operations);
    results.push_back({{"bytes", row.bytes},
                       {"median_us", row.median_us},
                       {"p10_us", row.p10_us},
                       {"p90_us", row.p90_us},
                       {"algbw_gbps", algbw},
                       {"busbw_gbps", busbw},
                       {"operations", row.operations}});
  }
  const nlohmann::json line = {{"bench", "allreduce"},
                               {"kind", options.kind},
                               {"ranks", options.ranks},
                               {"pinned", options.pin},
                               {"cores", std::thread::hardware_concurrency()},
                               {"results", results}};
  std::printf("%s\n", line.dump().c_str());
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures AllReduceSum and verifies its results.");
  app.add_option("--kind", options.kind, "thread, shm or tcp")
      ->check(CLI::IsMember({"thread", "shm", "tcp"}))
      ->capture_default_str();
  app.add_option("--ranks", options.ranks, "how many, on this host")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--bytes", options.bytes, "sizes, multiples of 4")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{4}, int64_t{1} << 32))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "measured for each size")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  app.add_flag("--pin", options.pin, "rank k to core k (modulo cores)");
  CLI11_PARSE(app, argc, argv);
  Print(options,
        options.kind == "thread" ? RunThreads(options) : RunProcesses(options));
  return 0;
}

}  // namespace
}  // namespace h2o

int main(int argc, char** argv) { return h2o::Main(argc, argv); }
