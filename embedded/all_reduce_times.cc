// Measures all-reduces on ranks that are threads or processes.
#include "embedded/all_reduce_times.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/dtype.h"
#include "base/quantile.h"
#include "base/status_macros.h"
#include "embedded/forked_ranks.h"
#include "embedded/step_pipe.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/find_device.h"
#include "parallel/rank_communicator.h"
#include "parallel/thread_communicator.h"

namespace h2o {
namespace {

using Times = std::vector<AllReduceTime>;

// A rank that is silent for this long, beyond the time that it measures, hangs.
constexpr double kRankTimeoutSeconds = 60;

// Batches that are not timed: one runs directly, one is recorded, one replayed.
constexpr int kWarmBatches = 3;
constexpr int kTrialBatches = 10;
constexpr double kFewestBatches = 10, kMostBatches = 1e5;

float ValueOf(int rank, int64_t i) {
  return static_cast<float>((i * 7 + rank * 13) % 1001 - 500) * 0.37f;
}

// The data of one rank and one size in the memory of its device, summed over
// and over.
class Sums {
 public:
  // `key` identifies the recording.
  Sums(Device* device, Communicator* communicator, Buffer data, DType dtype,
       int batch, uint64_t key)
      : device_(device),
        communicator_(communicator),
        data_(std::move(data)),
        dtype_(dtype),
        batch_(batch),
        key_(key) {}

  absl::StatusOr<AllReduceTime> Measure(const AllReduceOptions& options) {
    if (options.verify) H2O_RETURN_IF_ERROR(Verify());
    Fill([](int64_t) { return 0.f; });  // sums stay finite
    for (int i = 0; i < kWarmBatches; ++i) H2O_RETURN_IF_ERROR(RunBatch());
    H2O_ASSIGN_OR_RETURN(const std::vector<double> trial, Time(kTrialBatches));
    const double batch_seconds = batch_ * Quantile(trial, 0.5);
    H2O_ASSIGN_OR_RETURN(const int batches,
                         Agree(std::clamp(options.seconds / batch_seconds,
                                          kFewestBatches, kMostBatches)));
    H2O_ASSIGN_OR_RETURN(const std::vector<double> seconds, Time(batches));
    if (options.verify) H2O_RETURN_IF_ERROR(Verify());
    return AllReduceTime{data_.bytes(), int64_t{batches} * batch_,
                         Quantile(seconds, 0.5), Quantile(seconds, 0.1),
                         Quantile(seconds, 0.9)};
  }

 private:
  int64_t count() const { return data_.bytes() / SizeOf(dtype_); }
  int ranks() const { return communicator_->size(); }

  template <class ValueAt>
  void Fill(ValueAt&& value_at) {
    std::vector<std::byte> values(data_.bytes());
    for (int64_t i = 0; i < count(); ++i) {
      StoreElement(values.data(), dtype_, i, value_at(i));
    }
    device_->Upload(values.data(), data_.bytes(), data_.data());
  }
  absl::Status Sum() {
    return communicator_->AllReduceSum(data_.data(), count(), dtype_);
  }
  absl::Status RunBatch() {
    return device_->Replay(key_, [this] {
      absl::Status status;
      for (int i = 0; i < batch_; ++i) status.Update(Sum());
      return status;
    });
  }

  // Seconds of one sum, of each of `batches`.
  absl::StatusOr<std::vector<double>> Time(int batches) {
    std::vector<double> seconds;
    while (batches > 0) {
      const int lot = std::min<int>(batches, Device::kMaxMarks - 1);
      batches -= lot;
      // All ranks have arrived when the clock starts.
      H2O_RETURN_IF_ERROR(RunBatch());
      std::vector<int64_t> marks = {device_->Mark()};
      for (int i = 0; i < lot; ++i) {
        H2O_RETURN_IF_ERROR(RunBatch());
        marks.push_back(device_->Mark());
      }
      H2O_RETURN_IF_ERROR(device_->Wait(marks.back()));
      for (int i = 0; i < lot; ++i) {
        seconds.push_back(device_->SecondsBetween(marks[i], marks[i + 1]) /
                          batch_);
      }
    }
    return seconds;
  }

  // The number that rank 0 proposes; all ranks must run the same number.
  absl::StatusOr<int> Agree(double proposal) {
    float number = communicator_->rank() == 0
                       ? std::floor(static_cast<float>(proposal))
                       : 0.f;
    H2O_ASSIGN_OR_RETURN(const Buffer sum, device_->Allocate(sizeof(number)));
    device_->Upload(&number, sizeof(number), sum.data());
    H2O_RETURN_IF_ERROR(communicator_->AllReduceSum(sum.data(), 1));
    device_->Download(sum.data(), sizeof(number), &number);
    H2O_RETURN_IF_ERROR(device_->Synchronize());
    return static_cast<int>(number);
  }

  // One sum is right, and a batch of them has the same bits on all ranks.
  absl::Status Verify() {
    Fill([this](int64_t i) { return ValueOf(communicator_->rank(), i); });
    H2O_RETURN_IF_ERROR(Sum());
    H2O_ASSIGN_OR_RETURN(const std::vector<std::byte> sums, OfAllRanks());
    for (int64_t i = 0; i < count(); ++i) {
      CheckSum(i, LoadElement(sums.data(), dtype_, i));
    }
    H2O_RETURN_IF_ERROR(RunBatch());
    return OfAllRanks().status();
  }
  void CheckSum(int64_t i, float got) const {
    float want = 0, size = 0;
    for (int k = 0; k < ranks(); ++k) {
      float value = 0;
      StoreElement(&value, dtype_, 0, ValueOf(k, i));
      value = LoadElement(&value, dtype_, 0);
      want += value;
      size += std::abs(value);
    }
    // Host memory is summed in rank order, so every bit is known.  NCCL has an
    // order of its own and rounds with each addend but the first.
    const float tolerance =
        dtype_ == DType::kBFloat16
            ? 0x1p-8f * static_cast<float>(ranks() - 1) * size
            : 0;
    H2O_CHECK(std::abs(got - want) <= tolerance)
        << "element " << i << " is " << got << " instead of " << want;
  }

  // The data, which must be the same on all ranks.
  absl::StatusOr<std::vector<std::byte>> OfAllRanks() {
    const int64_t bytes = data_.bytes();
    H2O_ASSIGN_OR_RETURN(const Buffer gathered,
                         device_->Allocate(bytes * ranks()));
    H2O_RETURN_IF_ERROR(communicator_->AllGather(
        data_.data(), std::vector<int64_t>(ranks(), bytes), gathered.data()));
    std::vector<std::byte> all(gathered.bytes());
    device_->Download(gathered.data(), gathered.bytes(), all.data());
    H2O_RETURN_IF_ERROR(device_->Synchronize());
    for (int k = 1; k < ranks(); ++k) {
      H2O_CHECK(std::memcmp(all.data(), all.data() + k * bytes, bytes) == 0)
          << "rank " << k << " has other bits than rank 0";
    }
    all.resize(bytes);
    return all;
  }

  Device* const device_;
  Communicator* const communicator_;
  const Buffer data_;
  const DType dtype_;
  const int batch_;
  const uint64_t key_;
};

// The scheduler tends to put ranks that only wake each other on one core. Ranks
// that compute in between run on cores of their own; pinning measures that
// case.
void Pin(int rank) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(rank % std::thread::hardware_concurrency(), &cpus);
  H2O_CHECK(sched_setaffinity(0, sizeof(cpus), &cpus) == 0) << "rank " << rank;
}

DeviceName DeviceOf(const AllReduceOptions& options, int rank) {
  return {options.kind == RankKind::kGpus, options.first_gpu + rank};
}

absl::StatusOr<Times> MeasureRank(const AllReduceOptions& options,
                                  std::unique_ptr<Communicator> communicator) {
  const int rank = communicator->rank();
  const DeviceName name = DeviceOf(options, rank);
  if (options.pin) Pin(rank);
  // Declared behind the communicator: its recordings must be destroyed first.
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, OpenDevice(name));
  communicator->UseStream(device->stream());
  Times times;
  for (int64_t bytes : options.bytes) {
    H2O_ASSIGN_OR_RETURN(Buffer data, device->Allocate(bytes));
    Sums sums(device.get(), communicator.get(), std::move(data),
              name.cuda ? DType::kBFloat16 : DType::kFloat32, options.batch,
              times.size());
    H2O_ASSIGN_OR_RETURN(times.emplace_back(), sums.Measure(options));
  }
  return times;
}

absl::StatusOr<Times> MeasureThreads(const AllReduceOptions& options) {
  auto ranks = MakeThreadCommunicators(options.ranks, kRankTimeoutSeconds);
  std::vector<absl::StatusOr<Times>> times(ranks.size());
  std::vector<std::thread> threads;
  for (size_t k = 0; k < ranks.size(); ++k) {
    threads.emplace_back(
        [&, k] { times[k] = MeasureRank(options, std::move(ranks[k])); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::StatusOr<Times>& of_rank : times) {
    H2O_RETURN_IF_ERROR(of_rank.status());
  }
  return times[0];
}

// The last message of a rank.
absl::StatusOr<Times> ReadTimes(const ForkedRanks& ranks, size_t rank) {
  const absl::StatusOr<RankNews> news =
      ReadNews(ranks.sockets()[rank].get(), ModelConfig());
  absl::Status why = news.status();
  if (news.ok()) {
    if (const auto* times = std::get_if<RankTimes>(&*news)) return times->times;
    const auto* failure = std::get_if<RankFailure>(&*news);
    why = failure != nullptr ? failure->status
                             : absl::InternalError("news of another kind");
  }
  return absl::Status(why.code(), absl::StrCat("all-reduces: rank ", rank, ": ",
                                               why.message()));
}

// Returns rank 0's message once all ranks have sent theirs.  Returns the first
// failure at once, because the failed rank's peers may wait for ever.
absl::StatusOr<Times> Await(const ForkedRanks& ranks, double patience_seconds) {
  std::vector<pollfd> silent;
  for (const UniqueFd& socket : ranks.sockets()) {
    silent.push_back({socket.get(), POLLIN, 0});
  }
  std::vector<Times> times(silent.size());
  for (size_t spoken = 0; spoken < silent.size();) {
    const int heard = poll(silent.data(), silent.size(),
                           static_cast<int>(1e3 * patience_seconds));
    if (heard < 0 && errno == EINTR) continue;
    if (heard <= 0) {
      return absl::UnavailableError(absl::StrCat(
          "all-reduces: ranks say nothing for ", patience_seconds, " s"));
    }
    for (size_t rank = 0; rank < silent.size(); ++rank) {
      if (silent[rank].revents == 0) continue;
      H2O_ASSIGN_OR_RETURN(times[rank], ReadTimes(ranks, rank));
      silent[rank].fd = -1;
      ++spoken;
    }
  }
  return times[0];
}

absl::StatusOr<Times> MeasureProcesses(const AllReduceOptions& options) {
  ForkedRanks ranks;
  H2O_RETURN_IF_ERROR(ranks.Fork(
      options.ranks,
      [&](int fd, MeshListener listener, MeshOptions mesh) -> absl::Status {
        mesh.tcp_only = options.kind == RankKind::kHosts;
        H2O_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator,
                             ConnectRank(std::move(listener), mesh,
                                         DeviceOf(options, mesh.rank)));
        H2O_ASSIGN_OR_RETURN(Times times,
                             MeasureRank(options, std::move(communicator)));
        return WriteNews(fd, RankTimes{std::move(times)});
      }));
  return Await(
      ranks, kRankTimeoutSeconds + 10 * options.seconds * options.bytes.size());
}

}  // namespace

absl::StatusOr<Times> MeasureAllReduces(const AllReduceOptions& options) {
  if (options.kind == RankKind::kThreads) return MeasureThreads(options);
  if (options.kind == RankKind::kGpus) {
    H2O_RETURN_IF_ERROR(CheckGpu(options.first_gpu + options.ranks - 1));
  }
  return MeasureProcesses(options);
}

double SecondsOf(const Times& times, double bytes) {
  if (times.empty()) return 0;
  const auto above = std::find_if(times.begin(), times.end(), [&](auto& t) {
    return static_cast<double>(t.bytes) >= bytes;
  });
  if (above == times.end()) return times.back().median;
  if (above == times.begin()) return above->median;
  const auto below = above - 1;
  const double share = (bytes - static_cast<double>(below->bytes)) /
                       static_cast<double>(above->bytes - below->bytes);
  return below->median + share * (above->median - below->median);
}

}  // namespace h2o
