// coordinator_bench: how many tokens a second a coordinator passes on, and how
// long it holds them up.
//
// It plays the workers (simulated_groups.h) and the clients of a coordinator
// that runs already, over loopback or a network:
//
//   h2oserve-coordinator --model opt-30b --load-format dummy --tp 4
//     --groups 250 --listen 127.0.0.1:5600 --max-connections 1200
//   coordinator_bench --server 127.0.0.1:5600 --pid PID --model opt-30b
//     --groups 250 --tp 4 --streams 32
//
// Clients begin a new request whenever one ends.  A token's delay is the time
// from the results of the last rank to the client's message; it contains this
// program's own.  With --pid, the processor time of the coordinator is told.
#include <grpcpp/client_context.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"
#include "bench/simulated_groups.h"
#include "flags/flags.h"
#include "flags/version.h"
#include "proto/channel.h"
#include "proto/inference.grpc.pb.h"

namespace h2o {
namespace {

namespace v1 = h2oserve::v1;

constexpr int kClientChannels = 8;

struct BenchFlags {
  std::string server = "127.0.0.1:5600";
  int pid = 0;
  std::string model = "opt-30b";
  int groups = 250, tp = 4, streams = 32;
  int prompt_len = 32, gen_len = 200;
  double step_ms = 20, warm_seconds = 3, seconds = 10;
};

// Delays of tokens, counted in bins of a stamp's unit.  Threads: any.
class Delays {
 public:
  void Add(double seconds) {
    const auto bin = static_cast<size_t>(seconds / kStampSeconds);
    bins_[std::min(bin, bins_.size() - 1)].fetch_add(1,
                                                     std::memory_order_relaxed);
  }
  void Clear() {
    for (auto& bin : bins_) bin = 0;
  }
  int64_t count() const {
    int64_t all = 0;
    for (const auto& bin : bins_) all += bin;
    return all;
  }
  double Quantile(double q) const {
    const double wanted = q * static_cast<double>(count());
    int64_t seen = 0;
    for (size_t i = 0; i < bins_.size(); ++i) {
      seen += bins_[i];
      if (static_cast<double>(seen) >= wanted) {
        return static_cast<double>(i + 1) * kStampSeconds;
      }
    }
    return 1;
  }

 private:
  std::array<std::atomic<int64_t>, 40'000> bins_ = {};
};

// Clients: `streams` requests at any time, until they are stopped.
//
// Threads  one owner; gRPC's.
class Clients {
 public:
  Clients(const BenchFlags& flags, int streams) : flags_(flags) {
    for (int i = 0; i < kClientChannels; ++i) {
      stubs_.push_back(
          v1::Inference::NewStub(ClientChannel(flags.server, "*")));
    }
    for (int i = 0; i < streams; ++i) Begin();
  }
  // Waits for the running requests.
  ~Clients() {
    stopping_ = true;
    for (int n = running_; n > 0; n = running_) running_.wait(n);
  }

  Delays& delays() { return delays_; }
  int64_t tokens() const { return tokens_; }
  int64_t failed() const { return failed_; }

 private:
  // One request; deletes itself when it is over.
  class Stream final : public grpc::ClientReadReactor<v1::GenerateResponse> {
   public:
    Stream(Clients* clients, v1::Inference::Stub* stub,
           const v1::GenerateRequest& request)
        : clients_(clients), request_(request) {
      stub->async()->Generate(&context_, &request_, this);
      StartRead(&response_);
      StartCall();
    }
    void OnReadDone(bool ok) override {
      if (!ok) return;
      for (const int32_t token : response_.tokens()) {
        clients_->Count(SecondsSince(token, StampClock()));
      }
      StartRead(&response_);
    }
    void OnDone(const grpc::Status& status) override {
      clients_->End(status.ok());
      delete this;
    }

   private:
    Clients* const clients_;
    const v1::GenerateRequest request_;
    grpc::ClientContext context_;
    v1::GenerateResponse response_;
  };

  void Begin() {
    v1::GenerateRequest request;
    for (int i = 0; i < flags_.prompt_len; ++i) {
      request.mutable_tokens()->add_ids(kFirstStamp + i);
    }
    request.set_max_tokens(flags_.gen_len);
    request.set_ignore_eos(true);
    ++running_;
    new Stream(this, stubs_[begun_++ % stubs_.size()].get(), request);
  }
  void Count(double delay) {
    ++tokens_;
    delays_.Add(delay);
  }
  void End(bool ok) {
    if (!ok) ++failed_;
    if (ok && !stopping_) Begin();
    if (--running_ == 0) running_.notify_all();
  }

  const BenchFlags flags_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  Delays delays_;
  std::atomic<int64_t> tokens_ = 0, failed_ = 0;
  std::atomic<uint64_t> begun_ = 0;
  std::atomic<int> running_ = 0;
  std::atomic<bool> stopping_ = false;
};

// Of a process, since it started; 0 without one.
double ProcessorSeconds(int pid) {
  if (pid == 0) return 0;
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

bool WaitUntilReady(const BenchFlags& flags) {
  const auto stub = v1::Inference::NewStub(ClientChannel(flags.server, "*"));
  for (int tries = 0; tries < 600; ++tries) {
    grpc::ClientContext context;
    v1::ModelInfo info;
    if (stub->GetModelInfo(&context, {}, &info).ok() &&
        info.num_groups() == flags.groups) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

void Sleep(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

int Run(const BenchFlags& flags) {
  const ModelSpec model = {.model = flags.model, .dummy = true};
  absl::StatusOr<std::unique_ptr<SimulatedGroups>> groups =
      SimulatedGroups::Start({.coordinator = flags.server,
                              .version = Version(),
                              .model = model,
                              .ranks = flags.groups * flags.tp,
                              .step_seconds = flags.step_ms / 1000});
  if (!groups.ok()) {
    std::fprintf(stderr, "%s\n", groups.status().ToString().c_str());
    return 1;
  }
  if (!WaitUntilReady(flags)) {
    std::fprintf(stderr, "not all groups are ready within 60 s; %ld left: %s\n",
                 static_cast<long>((*groups)->counters().lost),
                 (*groups)->counters().why.c_str());
    return 1;
  }
  nlohmann::ordered_json line;
  {
    Clients clients(flags, flags.groups * flags.streams);
    Sleep(flags.warm_seconds);
    clients.delays().Clear();
    const SimulatedGroups::Counters before = (*groups)->counters();
    const double began = StampClock(), used = ProcessorSeconds(flags.pid);
    const int64_t tokens_before = clients.tokens();
    Sleep(flags.seconds);
    const double seconds = StampClock() - began;
    const double cpu = ProcessorSeconds(flags.pid) - used;
    const auto tokens = static_cast<double>(clients.tokens() - tokens_before);
    const SimulatedGroups::Counters after = (*groups)->counters();
    const auto steps = static_cast<double>(after.steps - before.steps);
    line = {
        {"groups", flags.groups},
        {"tp", flags.tp},
        {"streams", flags.groups * flags.streams},
        {"step_ms", flags.step_ms},
        {"tokens_per_second", tokens / seconds},
        {"offered", flags.groups * flags.streams / flags.step_ms * 1000},
        {"cores", cpu / seconds},
        {"tokens_per_core_second", cpu > 0 ? tokens / cpu : 0},
        {"delay_ms_p50", clients.delays().Quantile(0.5) * 1000},
        {"delay_ms_p99", clients.delays().Quantile(0.99) * 1000},
        {"late_ms_per_step", 1000 * (after.late_seconds - before.late_seconds) /
                                 std::max(1.0, steps)},
        {"failed", clients.failed()},
        {"lost_ranks", after.lost}};
  }
  std::printf("%s\n", line.dump().c_str());
  return line["failed"] == 0 && line["lost_ranks"] == 0 ? 0 : 1;
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Plays the workers and the clients of a coordinator, and measures how "
      "long it holds up tokens",
      "coordinator_bench");
  BenchFlags flags;
  app.add_option("--server", flags.server, "HOST:PORT of the coordinator");
  app.add_option("--pid", flags.pid, "Its process, whose time is told");
  app.add_option("--model", flags.model, "As the coordinator's");
  app.add_option("--groups", flags.groups, "As the coordinator's");
  app.add_option("--tp", flags.tp, "As the coordinator's");
  app.add_option("--streams", flags.streams, "Requests at a time of a group");
  app.add_option("--prompt-len", flags.prompt_len, "Tokens of a prompt");
  app.add_option("--gen-len", flags.gen_len, "Tokens of an answer");
  app.add_option("--step-ms", flags.step_ms, "How long workers take a step");
  app.add_option("--warm", flags.warm_seconds, "Seconds before measuring");
  app.add_option("--seconds", flags.seconds, "Seconds of measuring");
  CLI11_PARSE(app, argc, argv);
  return Run(flags);
}

}  // namespace
}  // namespace h2o

int main(int argc, char** argv) { return h2o::Main(argc, argv); }
