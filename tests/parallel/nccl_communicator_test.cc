// Processes, a GPU each: two, but for what is said of more.  This process forks
// them and never calls CUDA.
#include "parallel/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/dtype.h"
#include "kernels/cuda/kernels.h"
#include "parallel/host_communicator.h"
#include "tests/base/seconds_since.h"

namespace h2o {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr int kRanks = 2;
constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16,
                             DType::kFloat16};
constexpr int64_t kCounts[] = {1, 7, 7168, 256 * 7168};

#define ASSERT_CUDA(call)                              \
  do {                                                 \
    const cudaError_t error = (call);                  \
    ASSERT_EQ(error, cudaSuccess)                      \
        << #call << ": " << cudaGetErrorString(error); \
  } while (false)

int CountGpus() {
  static const int count = [] {
    const pid_t child = fork();
    if (child == 0) {
      int n = 0;
      _exit(cudaGetDeviceCount(&n) == cudaSuccess ? n : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
  }();
  return count;
}

class NcclCommunicator : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CountGpus() < kRanks) {
      GTEST_SKIP() << "needs " << kRanks << " GPUs; this machine has "
                   << CountGpus();
    }
  }

  // `body` runs in each of the processes; the mesh connects them.
  static void RunRanks(
      const std::function<void(std::unique_ptr<Communicator>)>& body,
      int ranks = kRanks) {
    static uint64_t formation = 0;
    MeshOptions mesh;
    mesh.size = ranks;
    mesh.secret = std::string(kMeshSecretBytes, 's');
    mesh.nonce = (static_cast<uint64_t>(getpid()) << 20) + ++formation;
    mesh.connect_timeout_seconds = 30;
    mesh.host_ids.assign(ranks, ThisHostId());
    std::vector<MeshListener> listeners;
    for (int k = 0; k < ranks; ++k) {
      listeners.push_back(MeshListener::Bind("127.0.0.1:0").value());
      mesh.addresses.push_back(listeners.back().address());
    }
    std::fflush(nullptr);
    std::vector<pid_t> children;
    for (int k = 0; k < ranks; ++k) {
      const pid_t pid = fork();
      ASSERT_GE(pid, 0);
      if (pid == 0) {
        alarm(40);  // who hangs ends
        mesh.rank = k;
        MeshListener mine = std::move(listeners[k]);
        listeners.clear();
        auto communicator = ConnectMesh(std::move(mine), mesh);
        EXPECT_TRUE(communicator.ok()) << communicator.status();
        if (communicator.ok()) body(*std::move(communicator));
        std::fflush(nullptr);
        _exit(HasFailure() ? 1 : 0);
      }
      children.push_back(pid);
    }
    listeners.clear();
    for (int k = 0; k < ranks; ++k) {
      int status = 0;
      waitpid(children[k], &status, 0);
      EXPECT_EQ(status, 0) << "rank " << k;
    }
  }
};

// Between -1 and 1, another for every rank, element and round.
float ValueOf(int rank, int64_t i, int round) {
  uint64_t x = static_cast<uint64_t>(i) * 2 + rank + 1;
  x = (x + round * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 31)) * 0x94d049bb133111ebu;
  x ^= x >> 29;
  return static_cast<float>(static_cast<int32_t>(x >> 32)) * 0x1p-31f;
}

std::vector<char> ValuesOf(int rank, int64_t count, DType dtype, int round) {
  std::vector<char> values(count * SizeOf(dtype));
  for (int64_t i = 0; i < count; ++i) {
    StoreElement(values.data(), dtype, i, ValueOf(rank, i, round));
  }
  return values;
}

// Half a unit in the last place, of the result.
double RoundingOf(DType dtype) {
  return dtype == DType::kFloat32    ? 0x1p-24
         : dtype == DType::kBFloat16 ? 0x1p-8
                                     : 0x1p-11;
}

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) {
    EXPECT_EQ(cudaMalloc(&data_, bytes), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0xee, bytes), cudaSuccess);
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  void* data_ = nullptr;
};

// A connected rank and its stream.
class Rank {
 public:
  explicit Rank(std::unique_ptr<Communicator> mesh) {
    const int ordinal = mesh->rank();
    auto connected = ConnectNccl(std::move(mesh), ordinal);
    EXPECT_TRUE(connected.ok()) << connected.status();
    if (!connected.ok()) return;
    communicator_ = *std::move(connected);
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
              cudaSuccess);
    communicator_->UseStream({stream_});
  }

  // Does not hang, whatever the peers do; quickly if they do the same.
  ~Rank() {
    if (communicator_ == nullptr) return;
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
    const auto start = Steady::now();
    communicator_.reset();
    EXPECT_LT(SecondsSince(start), max_farewell_seconds_);
  }
  void AllowFarewell(double seconds) { max_farewell_seconds_ = seconds; }

  bool ok() const { return communicator_ != nullptr; }
  Communicator* operator->() const { return communicator_.get(); }
  cudaStream_t stream() const { return stream_; }

  std::vector<char> Download(const void* data, size_t bytes) const {
    std::vector<char> host(bytes);
    EXPECT_EQ(cudaMemcpyAsync(host.data(), data, bytes, cudaMemcpyDeviceToHost,
                              stream_),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return host;
  }
  void Upload(const std::vector<char>& host, void* data) const {
    EXPECT_EQ(cudaMemcpyAsync(data, host.data(), host.size(),
                              cudaMemcpyHostToDevice, stream_),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  }

 private:
  std::unique_ptr<Communicator> communicator_;
  cudaStream_t stream_ = nullptr;
  double max_farewell_seconds_ = 1.9;
};

void CheckSum(const std::vector<char>& sum, int64_t count, DType dtype,
              int round) {
  std::vector<std::vector<char>> of_ranks;
  for (int k = 0; k < kRanks; ++k) {
    of_ranks.push_back(ValuesOf(k, count, dtype, round));
  }
  for (int64_t i = 0; i < count; ++i) {
    double want = 0;
    for (const std::vector<char>& values : of_ranks) {
      want += LoadElement(values.data(), dtype, i);
    }
    const double got = LoadElement(sum.data(), dtype, i);
    ASSERT_LE(std::abs(got - want), RoundingOf(dtype) * std::abs(want))
        << "element " << i << " of " << count << ", " << Name(dtype)
        << ", round " << round << ": " << got << " instead of " << want;
  }
}

// Every rank's `data` has the same bits.
void CheckEqual(const Rank& rank, const DeviceMemory& data, int64_t bytes) {
  DeviceMemory all(bytes * kRanks);
  const std::vector<int64_t> sizes(kRanks, bytes);
  const absl::Status status = rank->AllGather(data.data(), sizes, all.data());
  ASSERT_TRUE(status.ok()) << status;
  const std::vector<char> host = rank.Download(all.data(), bytes * kRanks);
  for (int k = 1; k < kRanks; ++k) {
    ASSERT_EQ(std::memcmp(host.data(), host.data() + k * bytes, bytes), 0)
        << "rank " << k << " differs from rank 0";
  }
}

void SumOnce(const Rank& rank, int64_t count, DType dtype) {
  const int64_t bytes = count * SizeOf(dtype);
  DeviceMemory data(bytes);
  rank.Upload(ValuesOf(rank->rank(), count, dtype, 0), data.data());
  const absl::Status status = rank->AllReduceSum(data.data(), count, dtype);
  ASSERT_TRUE(status.ok()) << status;
  CheckSum(rank.Download(data.data(), bytes), count, dtype, 0);
  CheckEqual(rank, data, bytes);
}

uint8_t ByteOf(int rank, int64_t i, int round) {
  return static_cast<uint8_t>((i * 31 + rank * 101 + round * 7) % 251);
}

void CheckGathered(const std::vector<char>& all,
                   const std::vector<int64_t>& bytes, int round) {
  int64_t at = 0;
  for (int k = 0; k < kRanks; ++k) {
    for (int64_t i = 0; i < bytes[k]; ++i) {
      ASSERT_EQ(static_cast<uint8_t>(all[at++]), ByteOf(k, i, round))
          << "byte " << i << " of rank " << k << ", round " << round;
    }
  }
}

std::vector<char> BytesOf(int rank, int64_t count, int round) {
  std::vector<char> bytes(count);
  for (int64_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<char>(ByteOf(rank, i, round));
  }
  return bytes;
}

void GatherOnce(const Rank& rank, const std::vector<int64_t>& bytes,
                bool in_place) {
  const int me = rank->rank();
  const int64_t total = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  const int64_t place =
      std::accumulate(bytes.begin(), bytes.begin() + me, int64_t{0});
  DeviceMemory all(total + 1), apart(bytes[me] + 1);
  char* mine = in_place ? all.data() + place : apart.data();
  rank.Upload(BytesOf(me, bytes[me], 0), mine);
  const absl::Status status = rank->AllGather(mine, bytes, all.data());
  ASSERT_TRUE(status.ok()) << status;
  const std::vector<char> host = rank.Download(all.data(), total + 1);
  CheckGathered(host, bytes, 0);
  EXPECT_EQ(static_cast<uint8_t>(host[total]), 0xee) << "wrote behind the end";
}

// A sum and an uneven gather, captured once and replayed over new data.
void Replay(const Rank& rank, int64_t count, DType dtype) {
  const int me = rank->rank();
  const int64_t sum_bytes = count * SizeOf(dtype);
  const std::vector<int64_t> bytes = {1000, 24};
  DeviceMemory source(sum_bytes), data(sum_bytes);
  DeviceMemory mine(bytes[me]), all(1024);
  const auto work = [&] {
    ASSERT_CUDA(cudaMemcpyAsync(data.data(), source.data(), sum_bytes,
                                cudaMemcpyDeviceToDevice, rank.stream()));
    absl::Status status = rank->AllReduceSum(data.data(), count, dtype);
    ASSERT_TRUE(status.ok()) << status;
    status = rank->AllGather(mine.data(), bytes, all.data());
    ASSERT_TRUE(status.ok()) << status;
  };
  const auto check = [&](int round) {
    CheckSum(rank.Download(data.data(), sum_bytes), count, dtype, round);
    CheckGathered(rank.Download(all.data(), 1024), bytes, round);
  };
  const auto load = [&](int round) {
    rank.Upload(ValuesOf(me, count, dtype, round), source.data());
    rank.Upload(BytesOf(me, bytes[me], round), mine.data());
  };
  // As a backend does: plainly first, recorded the second time.
  load(0);
  work();
  check(0);
  ASSERT_CUDA(
      cudaStreamBeginCapture(rank.stream(), cudaStreamCaptureModeThreadLocal));
  work();
  cudaGraph_t graph = nullptr;
  ASSERT_CUDA(cudaStreamEndCapture(rank.stream(), &graph));
  cudaGraphExec_t recording = nullptr;
  ASSERT_CUDA(cudaGraphInstantiate(&recording, graph, 0));
  ASSERT_CUDA(cudaGraphDestroy(graph));
  for (int round = 1; round <= 3; ++round) {
    load(round);
    ASSERT_CUDA(cudaGraphLaunch(recording, rank.stream()));
    check(round);
    // Plain operations between replays.
    CheckEqual(rank, data, sum_bytes);
  }
  ASSERT_CUDA(cudaGraphExecDestroy(recording));
}

// What each rank writes where the others see its memory is what they read.
TEST_F(NcclCommunicator, RanksMapEachOthersMemory) {
  RunRanks([](std::unique_ptr<Communicator> mesh) {
    Rank rank(std::move(mesh));
    if (!rank.ok()) return;
    const int me = rank->rank();
    constexpr int64_t kBytes = 1 << 20;
    const auto memory = rank->MapPeers(kBytes);
    ASSERT_TRUE(memory.ok()) << memory.status();
    if (memory->size == 0) {
      GTEST_SKIP() << "the GPUs cannot reach each other's memory";
    }
    EXPECT_EQ(memory->size, kRanks);
    EXPECT_EQ(memory->rank, me);
    ASSERT_NE(memory->aborted, nullptr);
    EXPECT_EQ(rank.Download(memory->of_rank[me], kBytes),
              std::vector<char>(kBytes));
    DeviceMemory meeting(4 * kRanks);
    const auto meet = [&] {
      const std::vector<int64_t> sizes(kRanks, 4);
      const absl::Status status =
          rank->AllGather(meeting.data() + 4 * me, sizes, meeting.data());
      ASSERT_TRUE(status.ok()) << status;
      rank.Download(meeting.data(), 1);
    };
    meet();
    const int peer = (me + 1) % kRanks;
    rank.Upload(BytesOf(me, kBytes, 0), memory->of_rank[peer]);
    meet();
    EXPECT_EQ(rank.Download(memory->of_rank[me], kBytes),
              BytesOf((me + kRanks - 1) % kRanks, kBytes, 0));
    EXPECT_EQ(rank.Download(memory->of_rank[peer], kBytes),
              BytesOf(me, kBytes, 0));
    meet();
  });
}

// Rows of a residual to which sums over ranks are added where the GPUs reach
// each other, by AddNorm.
class PeerSumRows {
 public:
  PeerSumRows(const Rank& rank, const PeerSums& sums, int columns)
      : rank_(rank),
        sums_(sums),
        columns_(columns),
        x_(sums.max_rows * columns * sizeof(float)),
        want_(sums.max_rows * columns) {
    EXPECT_EQ(cudaMemset(x_.data(), 0, want_.size() * sizeof(float)),
              cudaSuccess);
  }

  // Adds round's addends of all ranks to the first `rows` rows, and says what
  // these are then, to the bit.
  void Add(int rows, SumWay way, int round) {
    const int turn = round % 2;
    const int64_t count = int64_t{rows} * columns_;
    std::vector<std::vector<char>> of_ranks;
    for (int k = 0; k < sums_.memory.size; ++k) {
      of_ranks.push_back(ValuesOf(k, count, kType, round));
    }
    rank_.Upload(of_ranks[sums_.memory.rank], sums_.Addend(turn));
    cuda::AddNormArgs args;
    args.x = reinterpret_cast<float*>(x_.data());
    args.x_stride = columns_;
    args.delta = sums_.Addend(turn);
    args.delta_stride = columns_;
    args.place = NormPlace::kNone;
    args.rows = rows;
    args.columns = columns_;
    args.dtype = kType;
    args.peers = sums_;
    args.turn = turn;
    args.way = way;
    ASSERT_CUDA(cuda::AddNorm(args, rank_.stream()));
    for (int64_t i = 0; i < count; ++i) {
      if (way == SumWay::kShare) {
        float sum = 0;
        for (const auto& addend : of_ranks) sum += At(addend, i);
        StoreElement(&sum, kType, 0, sum);
        want_[i] += LoadElement(&sum, kType, 0);
      } else {
        for (const auto& addend : of_ranks) want_[i] += At(addend, i);
      }
    }
  }
  void Check() const {
    const std::vector<char> x =
        rank_.Download(x_.data(), want_.size() * sizeof(float));
    for (size_t i = 0; i < want_.size(); ++i) {
      ASSERT_EQ(LoadElement(x.data(), DType::kFloat32, i), want_[i])
          << "row " << i / columns_ << ", column " << i % columns_;
    }
  }

 private:
  static constexpr DType kType = DType::kBFloat16;
  static float At(const std::vector<char>& addend, int64_t i) {
    return LoadElement(addend.data(), kType, i);
  }

  const Rank& rank_;
  const PeerSums& sums_;
  const int columns_;
  const DeviceMemory x_;
  std::vector<float> want_;
};

// Each way, of as many ranks as there are GPUs: over the wire, where what one
// GPU writes last may come first.
TEST_F(NcclCommunicator, KernelsSumOverMappedMemory) {
  for (int ranks = kRanks;
       ranks <= std::min(CountGpus(), PeerMemory::kMaxRanks); ranks *= 2) {
    SCOPED_TRACE(ranks);
    RunRanks(
        [](std::unique_ptr<Communicator> mesh) {
          Rank rank(std::move(mesh));
          if (!rank.ok()) return;
          for (int columns : {96, 7168, 12288}) {
            PeerSums sums = PeerSums::Of(rank->size(), 700, 2 * columns);
            const auto memory = rank->MapPeers(sums.bytes);
            ASSERT_TRUE(memory.ok()) << memory.status();
            if (memory->size == 0) {
              GTEST_SKIP() << "the GPUs cannot reach each other's memory";
            }
            sums.memory = *memory;
            PeerSumRows rows(rank, sums, columns);
            int round = 0;
            for (int n : {1, 32, 33, 140, 700}) {
              for (SumWay way :
                   {SumWay::kShare, SumWay::kPull, SumWay::kPush,
                    SumWay::kShare, SumWay::kShare, SumWay::kPull}) {
                if (way == SumWay::kPush && n > sums.kPushRows) continue;
                // Now one, now the other is late.
                if (round % rank->size() == rank->rank()) {
                  std::this_thread::sleep_for(milliseconds(2));
                }
                rows.Add(n, way, round++);
                if (HasFatalFailure()) return;
              }
              rows.Check();
              if (HasFatalFailure()) return;
            }
          }
        },
        ranks);
  }
}

// Without the memory that NCCL can share, ranks map nothing, are told so, and
// sum as ever.
TEST_F(NcclCommunicator, WhereNoMemoryCanBeMappedNoneIs) {
  RunRanks([](std::unique_ptr<Communicator> mesh) {
    setenv("NCCL_CUMEM_ENABLE", "0", /*overwrite=*/1);
    Rank rank(std::move(mesh));
    if (!rank.ok()) return;
    const auto memory = rank->MapPeers(1 << 20);
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(memory->size, 0);
    SumOnce(rank, 7168, DType::kBFloat16);
  });
}

TEST_F(NcclCommunicator, SumsAndGathersPlainlyAndInGraphs) {
  RunRanks([](std::unique_ptr<Communicator> mesh) {
    Rank rank(std::move(mesh));
    if (!rank.ok()) return;
    EXPECT_EQ(rank->size(), kRanks);
    for (DType dtype : kDTypes) {
      for (int64_t count : kCounts) {
        SCOPED_TRACE(absl::StrCat(count, " x ", std::string(Name(dtype))));
        SumOnce(rank, count, dtype);
        Replay(rank, count, dtype);
        if (HasFatalFailure()) return;
      }
    }
    for (const std::vector<int64_t>& bytes : std::vector<std::vector<int64_t>>{
             {0, 0}, {5, 5}, {0, 5}, {3, 0}, {1000, 24}, {1, 2 << 20}}) {
      for (bool in_place : {false, true}) {
        SCOPED_TRACE(absl::StrCat(bytes[0], " and ", bytes[1], " bytes",
                                  in_place ? " in place" : ""));
        GatherOnce(rank, bytes, in_place);
        if (HasFatalFailure()) return;
      }
    }
    const absl::Status nothing =
        rank->AllReduceSum(nullptr, 0, DType::kBFloat16);
    EXPECT_TRUE(nothing.ok()) << nothing;
  });
}

TEST_F(NcclCommunicator, AbortEndsARunningSum) {
  RunRanks([](std::unique_ptr<Communicator> mesh) {
    Rank rank(std::move(mesh));
    if (!rank.ok()) return;
    rank.AllowFarewell(4);
    SumOnce(rank, 7168, DType::kBFloat16);
    if (rank->rank() == 1) {  // does not come to the next one
      std::this_thread::sleep_for(milliseconds(4000));
      return;
    }
    DeviceMemory data(7168 * 2);
    const absl::Status enqueued =
        rank->AllReduceSum(data.data(), 7168, DType::kBFloat16);
    ASSERT_TRUE(enqueued.ok()) << enqueued;
    std::thread aborter([&] {
      std::this_thread::sleep_for(milliseconds(300));
      const auto start = Steady::now();
      rank->Abort(absl::CancelledError("enough"));
      EXPECT_LT(SecondsSince(start), 0.2);
    });
    const auto start = Steady::now();
    cudaStreamSynchronize(rank.stream());
    EXPECT_GT(SecondsSince(start), 0.2);
    EXPECT_LT(SecondsSince(start), 3);
    aborter.join();
    EXPECT_EQ(rank->AllReduceSum(data.data(), 7168, DType::kBFloat16),
              absl::CancelledError("enough"));
    EXPECT_EQ(rank->AllGather(data.data(), {4, 4}, data.data()),
              absl::CancelledError("enough"));
  });
}

TEST_F(NcclCommunicator, DestructionOutlivesAPeerThatIsGone) {
  RunRanks([](std::unique_ptr<Communicator> mesh) {
    Rank rank(std::move(mesh));
    if (!rank.ok()) return;
    rank.AllowFarewell(4);
    SumOnce(rank, 7168, DType::kFloat16);
    if (rank->rank() == 1) {
      std::fflush(nullptr);
      _exit(::testing::Test::HasFailure() ? 1 : 0);  // without a farewell
    }
    std::this_thread::sleep_for(milliseconds(1000));
  });
}

TEST_F(NcclCommunicator, ARankWithoutAGpuIsNamedByItsPeer) {
  RunRanks([](std::unique_ptr<Communicator> mesh) {
    const int me = mesh->rank();
    const auto connected =
        ConnectNccl(std::move(mesh), me == 0 ? 0 : CountGpus() + 7);
    ASSERT_FALSE(connected.ok());
    if (me == 1) {
      EXPECT_EQ(connected.status().code(),
                absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(std::string(connected.status().message()),
                  HasSubstr(absl::StrCat("cuda:", CountGpus() + 7)));
    } else {
      EXPECT_EQ(connected.status().code(), absl::StatusCode::kUnavailable);
      EXPECT_THAT(std::string(connected.status().message()),
                  HasSubstr("rank 1"));
    }
  });
}

}  // namespace
}  // namespace h2o
