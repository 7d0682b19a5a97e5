// Measures the ways to sum over ranks and chooses one for each number of rows.
#include "worker/rank_sums.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

// One try times kSums sums back to back; the fastest of kTries counts.
constexpr int kSums = 20, kTries = 3;
static_assert(kSums % 2 == 0, "turns alternate");
// All-reduces of all rows enqueued before a try.  While they run, the host
// enqueues the sums to be timed, so that the device does not wait for the host.
// With a small model they are too short for that, and an all-reduce may be
// timed at the host's speed.
constexpr int kHeadStart = 3;

// A later way must be faster than an earlier one by more than this share.
constexpr double kNoise = 0.02;

constexpr SumWay kWays[kSumWays] = {SumWay::kPush, SumWay::kPull,
                                    SumWay::kShare, SumWay::kAllReduce};

bool Has(SumWay way, int64_t rows) {
  return way != SumWay::kPush || rows <= PeerSums::kPushRows;
}

// 1, 2, 4, .. 32, 48, 64, 96, .. and `most`.
std::vector<int64_t> RowsToMeasure(int64_t most) {
  std::vector<int64_t> rows;
  for (int64_t n = 1; n < most; n *= 2) {
    rows.push_back(n);
    if (n >= PeerSums::kPushRows && n * 3 / 2 < most) rows.push_back(n * 3 / 2);
  }
  rows.push_back(most);
  return rows;
}

}  // namespace

const char* Name(SumWay way) {
  switch (way) {
    case SumWay::kPush:
      return "push";
    case SumWay::kPull:
      return "pull";
    case SumWay::kShare:
      return "share";
    case SumWay::kAllReduce:
      return "all-reduce";
  }
  return "?";
}

std::vector<SumChoice> ChooseSums(absl::Span<const SumTimes> times) {
  std::vector<SumChoice> choices;
  for (const SumTimes& t : times) {
    const auto seconds = [&](SumWay way) {
      return t.seconds[static_cast<int>(way)];
    };
    SumWay best = SumWay::kPush;
    for (SumWay way : kWays) {
      if (seconds(way) < (1 - kNoise) * seconds(best)) best = way;
    }
    if (choices.empty() || choices.back().way != best) {
      choices.push_back({t.rows, best});
    }
    choices.back().rows = t.rows;
  }
  return choices;
}

absl::StatusOr<RankSums> RankSums::Create(Backend* backend,
                                          Communicator* communicator,
                                          Matrix whole, Matrix scratch) {
  RankSums sums(backend, communicator, whole);
  H2O_RETURN_IF_ERROR(sums.MapPeers());
  sums.choices_ = {{whole.rows, SumWay::kAllReduce}};
  if (!sums.peers_) return sums;
  Matrix x{nullptr, whole.rows, whole.columns, whole.stride, DType::kFloat32};
  H2O_ASSIGN_OR_RETURN(const Buffer residual, backend->Allocate(x.bytes()));
  x.data = residual.data();
  H2O_ASSIGN_OR_RETURN(sums.times_, sums.Measure(x, scratch));
  sums.choices_ = ChooseSums(sums.times_);
  return sums;
}

absl::Status RankSums::MapPeers() {
  const int ranks = communicator_->size();
  if (!backend_->formats().sums_peers || ranks == 1 ||
      ranks > PeerMemory::kMaxRanks) {
    return absl::OkStatus();
  }
  PeerSums sums =
      PeerSums::Of(ranks, whole_.rows, whole_.stride * SizeOf(whole_.dtype));
  H2O_ASSIGN_OR_RETURN(sums.memory, communicator_->MapPeers(sums.bytes));
  if (sums) peers_ = sums;
  return absl::OkStatus();
}

std::string RankSums::ToString() const {
  return absl::StrJoin(
      choices_, ", ", [](std::string* out, const SumChoice& choice) {
        absl::StrAppend(out, Name(choice.way), " up to ", choice.rows, " rows");
      });
}

SumWay RankSums::WayOf(int64_t rows) const {
  const auto choice =
      std::find_if(choices_.begin(), choices_.end(),
                   [&](const SumChoice& c) { return rows <= c.rows; });
  H2O_CHECK(choice != choices_.end()) << rows << " rows";
  return choice->way;
}

Delta RankSums::PartOf(int64_t rows, int turn) const {
  return PartOf(rows, turn, WayOf(rows));
}

Delta RankSums::PartOf(int64_t rows, int turn, SumWay way) const {
  Delta part{whole_.Rows(0, rows)};
  if (way == SumWay::kAllReduce) return part;
  part.mine.data = peers_.Addend(turn);
  part.peers = &peers_;
  part.turn = turn;
  part.way = way;
  return part;
}

absl::Status RankSums::AddNorm(Matrix x, const Delta& part, const void* bias,
                               NormPlace place, const LayerNormWeights& weights,
                               Matrix out) const {
  if (part.way == SumWay::kAllReduce) {
    H2O_RETURN_IF_ERROR(AllReduce(part.mine));
  }
  backend_->AddNorm(x, part, bias, place, weights, out);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SumTimes>> RankSums::Measure(Matrix x,
                                                        Matrix out) const {
  std::vector<SumTimes> times;
  for (int64_t rows : RowsToMeasure(whole_.rows)) {
    SumTimes& t = times.emplace_back();
    t.rows = rows;
    for (SumWay way : kWays) {
      float& seconds = t.seconds[static_cast<int>(way)];
      seconds = std::numeric_limits<float>::infinity();
      if (!Has(way, rows)) continue;
      H2O_ASSIGN_OR_RETURN(seconds,
                           Time(way, x.Rows(0, rows), out.Rows(0, rows)));
    }
  }
  H2O_RETURN_IF_ERROR(AddUp(absl::MakeSpan(times)));
  return times;
}

// The parts are zeros, and their sums too.
absl::StatusOr<double> RankSums::Time(SumWay way, Matrix x, Matrix out) const {
  const auto sum = [&](const Delta& part) {
    return AddNorm(x, part, nullptr, NormPlace::kBefore, {}, out);
  };
  double best = std::numeric_limits<double>::infinity();
  for (int attempt = 0; attempt < kTries; ++attempt) {
    for (int i = 0; i < kHeadStart; ++i) {
      H2O_RETURN_IF_ERROR(AllReduce(whole_));
    }
    for (int turn : {0, 1}) {
      H2O_RETURN_IF_ERROR(sum(PartOf(x.rows, turn, way)));
    }
    const int64_t begin = backend_->Mark();
    for (int i = 0; i < kSums; ++i) {
      H2O_RETURN_IF_ERROR(sum(PartOf(x.rows, i % 2, way)));
    }
    const int64_t end = backend_->Mark();
    H2O_RETURN_IF_ERROR(backend_->Wait(end));
    best = std::min(best, backend_->SecondsBetween(begin, end) / kSums);
  }
  return best;
}

// All ranks must make the same choice, so they choose by their mean times.
absl::Status RankSums::AddUp(absl::Span<SumTimes> times) const {
  std::vector<float> seconds;
  for (const SumTimes& t : times) {
    seconds.insert(seconds.end(), t.seconds.begin(), t.seconds.end());
  }
  const auto count = static_cast<int64_t>(seconds.size());
  const int64_t bytes = count * int64_t{sizeof(float)};
  H2O_ASSIGN_OR_RETURN(const Buffer sums, backend_->Allocate(bytes));
  backend_->Upload(seconds.data(), bytes, sums.data());
  H2O_RETURN_IF_ERROR(
      communicator_->AllReduceSum(sums.data(), count, DType::kFloat32));
  backend_->Download(sums.data(), bytes, seconds.data());
  H2O_RETURN_IF_ERROR(backend_->Synchronize());
  const auto ranks = static_cast<float>(communicator_->size());
  auto next = seconds.begin();
  for (SumTimes& t : times) {
    for (float& s : t.seconds) s = *next++ / ranks;
  }
  return absl::OkStatus();
}

}  // namespace h2o
