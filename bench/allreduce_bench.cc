// allreduce_bench: measures one AllReduceSum over each kind of Communicator.
//
// Every rank checks every element of the first and of the last sum.  A row
// gives the median over the measured operations of rank 0, and its 10th and
// 90th percentile.  algbw is bytes / time.  busbw is algbw * 2 (n - 1) / n,
// which can be compared with the speed of memory or of the network for any n.
//
// Over NCCL the data are bf16 in GPU memory.  A measurement replays a CUDA
// graph of 50 sums, one behind the other; the time of an operation is a 50th of
// it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "embedded/all_reduce_times.h"
#include "flags/flags.h"

namespace h2o {
namespace {

constexpr int kSumsInGraph = 50;

// Rows of hidden states of opt-30b in bf16, from a step of one sequence to one
// of 256; for host memory what CPU models have.
std::vector<int64_t> BytesOf(RankKind kind) {
  if (kind != RankKind::kGpus) return {2 << 10, 64 << 10, 1 << 20};
  std::vector<int64_t> bytes;
  for (int64_t rows : {1, 8, 32, 64, 128, 256})
    bytes.push_back(rows * 7168 * 2);
  return bytes;
}

void Print(const std::string& kind, const AllReduceOptions& options,
           const std::vector<AllReduceTime>& times) {
  std::printf("%s, %d ranks, %u cores\n", kind.c_str(), options.ranks,
              std::thread::hardware_concurrency());
  std::printf("%10s %10s %10s %10s %12s %12s %8s\n", "bytes", "median us",
              "p10", "p90", "algbw GB/s", "busbw GB/s", "ops");
  nlohmann::json results = nlohmann::json::array();
  for (const AllReduceTime& time : times) {
    const double algbw = static_cast<double>(time.bytes) / time.median * 1e-9;
    const double busbw = algbw * 2 * (options.ranks - 1) / options.ranks;
    std::printf("%10ld %10.1f %10.1f %10.1f %12.3f %12.3f %8ld\n",
                static_cast<long>(time.bytes), 1e6 * time.median,
                1e6 * time.p10, 1e6 * time.p90, algbw, busbw,
                static_cast<long>(time.operations));
    results.push_back({{"bytes", time.bytes},
                       {"median_us", 1e6 * time.median},
                       {"p10_us", 1e6 * time.p10},
                       {"p90_us", 1e6 * time.p90},
                       {"algbw_gbps", algbw},
                       {"busbw_gbps", busbw},
                       {"operations", time.operations}});
  }
  const nlohmann::json line = {{"bench", "allreduce"},
                               {"kind", kind},
                               {"ranks", options.ranks},
                               {"pinned", options.pin},
                               {"cores", std::thread::hardware_concurrency()},
                               {"results", results}};
  std::printf("%s\n", line.dump().c_str());
}

int Main(int argc, char** argv) {
  AllReduceOptions options;
  options.verify = true;
  const std::map<std::string, RankKind> kinds = {{"thread", RankKind::kThreads},
                                                 {"shm", RankKind::kProcesses},
                                                 {"tcp", RankKind::kHosts},
                                                 {"nccl", RankKind::kGpus}};
  std::string kind = "thread";
  CLI::App app("Measures AllReduceSum and verifies its results.");
  app.add_option("--kind", kind, "thread, shm, tcp or nccl")
      ->check(CLI::IsMember(&kinds))
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
      ->check(Within(0.01, 600, "0.01 to 600 seconds"))
      ->capture_default_str();
  app.add_flag("--pin", options.pin, "rank k to core k (modulo cores)");
  CLI11_PARSE(app, argc, argv);
  options.kind = kinds.at(kind);
  if (options.kind == RankKind::kGpus) options.batch = kSumsInGraph;
  if (options.bytes.empty()) options.bytes = BytesOf(options.kind);
  const auto times = MeasureAllReduces(options);
  if (!times.ok()) {
    std::fprintf(stderr, "allreduce_bench: %s\n",
                 times.status().ToString().c_str());
    return 1;
  }
  Print(kind, options, *times);
  return 0;
}

}  // namespace
}  // namespace h2o

int main(int argc, char** argv) { return h2o::Main(argc, argv); }
