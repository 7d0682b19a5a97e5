// allreduce_bench: how long one AllReduceSum takes, over each kind of
// Communicator.
//
// Every rank checks every element of the first and of the last sum.  A row
// gives the median over the measured operations of rank 0, and its 10th and
// 90th percentile; algbw is bytes / time, busbw is algbw * 2 (n - 1) / n, which
// compares with the speed of memory or of the network whatever n is.
//
// Over NCCL the data are bf16 in GPU memory, and what is measured are replays
// of a CUDA graph of 50 sums, one behind the other; an operation is a 50th of
// one.  All ranks' sums are compared bit by bit.
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "parallel/host_communicator.h"
#include "parallel/nccl_communicator.h"
#include "parallel/thread_communicator.h"

#ifdef H2O_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace h2o {
namespace {

struct Options {
  std::string kind = "thread";
  int ranks = 2;
  std::vector<int64_t> bytes;  // empty: BytesOf(kind)
  double seconds = 0.5;        // measured, for each size
  bool pin = false;            // rank k to core k
};

struct Row {
  int64_t bytes = 0;
  int operations = 0;
  double median_us = 0, p10_us = 0, p90_us = 0;
};

// Rows of hidden states of opt-30b in bf16, from a step of one sequence to one
// of 256; for host memory what CPU models have.
std::vector<int64_t> BytesOf(const std::string& kind) {
  if (kind != "nccl") return {2 << 10, 64 << 10, 1 << 20};
  std::vector<int64_t> bytes;
  for (int64_t rows : {1, 8, 32, 64, 128, 256})
    bytes.push_back(rows * 7168 * 2);
  return bytes;
}

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

// `run` is what each process does with its rank; rank 0 is this one.
using RunRankFn =
    std::function<std::vector<Row>(std::unique_ptr<Communicator>)>;

std::vector<Row> RunProcesses(const Options& options, const RunRankFn& run) {
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
  const auto run_rank = [&](int rank) {
    mesh.rank = rank;
    auto communicator = ConnectMesh(std::move(listeners[rank]), mesh);
    H2O_CHECK(communicator.ok()) << communicator.status().ToString();
    return run(*std::move(communicator));
  };
  std::vector<pid_t> children;
  for (int k = 1; k < options.ranks; ++k) {
    const pid_t pid = fork();
    H2O_CHECK(pid >= 0) << "fork";
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      run_rank(k);
      _exit(0);
    }
    children.push_back(pid);
  }
  std::vector<Row> rows = run_rank(0);
  for (pid_t pid : children) {
    int status = 0;
    waitpid(pid, &status, 0);
    H2O_CHECK(status == 0) << "a rank failed";
  }
  return rows;
}

std::vector<Row> RunHostProcesses(const Options& options) {
  return RunProcesses(options, [&](std::unique_ptr<Communicator> mesh) {
    return RunRank(mesh.get(), options);
  });
}

#ifdef H2O_WITH_CUDA

// ---- GPUs

constexpr int kSumsInGraph = 50;

void Check(cudaError_t error) {
  H2O_CHECK(error == cudaSuccess) << cudaGetErrorString(error);
}
void Check(const absl::Status& status) {
  H2O_CHECK(status.ok()) << status.ToString();
}

// Numbers of one rank and size in GPU memory, and the stream they are summed
// on.
class GpuSums {
 public:
  GpuSums(Communicator* communicator, cudaStream_t stream, int64_t bytes)
      : communicator_(communicator),
        stream_(stream),
        bytes_(bytes),
        ranks_(communicator->size()) {
    Check(cudaMalloc(&data_, bytes));
    Check(cudaMalloc(&of_all_, bytes * ranks_));
    // Plainly at first: NCCL connects what this size needs.
    Fill();
    Sum();
    Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < kSumsInGraph; ++i) Sum();
    cudaGraph_t graph = nullptr;
    Check(cudaStreamEndCapture(stream_, &graph));
    Check(cudaGraphInstantiate(&graph_, graph, 0));
    Check(cudaGraphDestroy(graph));
  }
  ~GpuSums() {
    Check(cudaStreamSynchronize(stream_));
    Check(cudaGraphExecDestroy(graph_));
    Check(cudaFree(data_));
    Check(cudaFree(of_all_));
  }
  GpuSums(const GpuSums&) = delete;

  // One sum is right, and 51 of them are the same bits on all ranks.
  void Verify() {
    Fill();
    Sum();
    const std::vector<uint16_t> sums = OfAllRanks();
    for (int64_t i = 0; i < count(); ++i) {
      double want = 0, size = 0;
      for (int k = 0; k < ranks_; ++k) {
        const double value = FromBFloat16(Value(k, i));
        want += value;
        size += std::abs(value);
      }
      const double got = FromBFloat16(sums[i]);
      // A rounding for each summand but the first.
      H2O_CHECK(std::abs(got - want) <= 0x1p-8 * (ranks_ - 1) * size)
          << "element " << i << " is " << got << " instead of " << want;
    }
    Replay();
    OfAllRanks();
  }

  // Microseconds of one sum, of each of `replays`.
  std::vector<double> Time(int replays) {
    Check(cudaMemsetAsync(data_, 0, bytes_, stream_));  // sums stay finite
    std::vector<cudaEvent_t> marks(replays + 1);
    for (cudaEvent_t& mark : marks) Check(cudaEventCreate(&mark));
    Replay();  // all ranks are there when the time begins
    Check(cudaEventRecord(marks[0], stream_));
    for (int i = 1; i <= replays; ++i) {
      Replay();
      Check(cudaEventRecord(marks[i], stream_));
    }
    Check(cudaStreamSynchronize(stream_));
    std::vector<double> us(replays);
    for (int i = 0; i < replays; ++i) {
      float ms = 0;
      Check(cudaEventElapsedTime(&ms, marks[i], marks[i + 1]));
      us[i] = 1e3 * ms / kSumsInGraph;
    }
    for (cudaEvent_t mark : marks) Check(cudaEventDestroy(mark));
    return us;
  }

  // What rank 0 says.
  int Agree(int proposal) {
    const float mine =
        communicator_->rank() == 0 ? static_cast<float>(proposal) : 0.f;
    float* const sum = static_cast<float*>(of_all_);
    Check(cudaMemcpyAsync(sum, &mine, sizeof(mine), cudaMemcpyHostToDevice,
                          stream_));
    Check(communicator_->AllReduceSum(sum, 1));
    float agreed = 0;
    Check(cudaMemcpyAsync(&agreed, sum, sizeof(agreed), cudaMemcpyDeviceToHost,
                          stream_));
    Check(cudaStreamSynchronize(stream_));
    return static_cast<int>(agreed);
  }

 private:
  int64_t count() const { return bytes_ / 2; }
  static uint16_t Value(int rank, int64_t i) {
    return ToBFloat16(ValueOf(rank, i) - 185.f);
  }

  void Fill() {
    std::vector<uint16_t> values(count());
    for (int64_t i = 0; i < count(); ++i) {
      values[i] = Value(communicator_->rank(), i);
    }
    Check(cudaMemcpyAsync(data_, values.data(), bytes_, cudaMemcpyHostToDevice,
                          stream_));
    Check(cudaStreamSynchronize(stream_));
  }
  void Sum() {
    Check(communicator_->AllReduceSum(data_, count(), DType::kBFloat16));
  }
  void Replay() { Check(cudaGraphLaunch(graph_, stream_)); }

  // The data, which must be the same on all ranks.
  std::vector<uint16_t> OfAllRanks() {
    Check(communicator_->AllGather(data_, std::vector<int64_t>(ranks_, bytes_),
                                   of_all_));
    std::vector<uint16_t> all(count() * ranks_);
    Check(cudaMemcpyAsync(all.data(), of_all_, bytes_ * ranks_,
                          cudaMemcpyDeviceToHost, stream_));
    Check(cudaStreamSynchronize(stream_));
    for (int k = 1; k < ranks_; ++k) {
      H2O_CHECK(std::memcmp(all.data(), all.data() + k * count(), bytes_) == 0)
          << "rank " << k << " has other bits than rank 0";
    }
    all.resize(count());
    return all;
  }

  Communicator* const communicator_;
  const cudaStream_t stream_;
  const int64_t bytes_;
  const int ranks_;
  void* data_ = nullptr;
  void* of_all_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
};

std::vector<Row> RunGpuRank(std::unique_ptr<Communicator> mesh,
                            const Options& options) {
  constexpr int kTrial = 5;
  const int ordinal = mesh->rank();
  auto connected = ConnectNccl(std::move(mesh), ordinal);
  Check(connected.status());
  const std::unique_ptr<Communicator> communicator = *std::move(connected);
  cudaStream_t stream = nullptr;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  communicator->UseStream({stream});
  std::vector<Row> rows;
  for (int64_t bytes : options.bytes) {
    GpuSums sums(communicator.get(), stream, bytes);
    sums.Verify();
    double trial = 0;
    for (double us : sums.Time(kTrial)) trial += us * kSumsInGraph;
    const int replays = sums.Agree(static_cast<int>(
        std::clamp(options.seconds * 1e6 * kTrial / trial, 20.0, 2e4)));
    std::vector<double> us = sums.Time(replays);
    sums.Verify();
    std::sort(us.begin(), us.end());
    rows.push_back({bytes, replays * kSumsInGraph, us[replays / 2],
                    us[replays / 10], us[replays * 9 / 10]});
  }
  Check(cudaStreamDestroy(stream));
  return rows;
}

std::vector<Row> RunGpus(const Options& options) {
  return RunProcesses(options, [&](std::unique_ptr<Communicator> mesh) {
    return RunGpuRank(std::move(mesh), options);
  });
}

#else

std::vector<Row> RunGpus(const Options&) {
  std::fprintf(stderr,
               "allreduce_bench: --kind nccl: this build has no CUDA; "
               "configure with -DH2O_WITH_CUDA=ON\n");
  std::exit(1);
}

#endif

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
  app.add_option("--kind", options.kind, "thread, shm, tcp or nccl")
      ->check(CLI::IsMember({"thread", "shm", "tcp", "nccl"}))
      ->capture_default_str();
  app.add_option("--ranks", options.ranks, "how many, on this host")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--bytes", options.bytes,
                 "sizes, multiples of 4; by default three of a CPU model, or "
                 "1 to 256 rows of 7168 in bf16")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{4}, int64_t{1} << 32));
  app.add_option("--seconds", options.seconds, "measured for each size")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  app.add_flag("--pin", options.pin, "rank k to core k (modulo cores)");
  CLI11_PARSE(app, argc, argv);
  if (options.bytes.empty()) options.bytes = BytesOf(options.kind);
  Print(options, options.kind == "thread" ? RunThreads(options)
                 : options.kind == "nccl" ? RunGpus(options)
                                          : RunHostProcesses(options));
  return 0;
}

}  // namespace
}  // namespace h2o

int main(int argc, char** argv) { return h2o::Main(argc, argv); }
