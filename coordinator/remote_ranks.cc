// Runs the ranks of one group over their streams.
#include "coordinator/remote_ranks.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/entropy.h"
#include "base/log.h"
#include "base/running_clock.h"
#include "model/step_codec.h"

namespace h2o {
namespace {

namespace wire = h2oserve::worker;

// Ranks give up waiting for each other after this part of the step deadline, so
// that they can name the rank they wait for before the coordinator gives up.
constexpr double kOperationShare = 0.8;

constexpr size_t kMeshSecretBytes = 32;

// A rank's progress is logged after this much of it, and this many seconds.
constexpr float kLoggedFraction = 0.1f;
constexpr double kLoggedSeconds = 2;

std::string NameOf(size_t rank, const wire::Hello& hello) {
  return absl::StrCat("rank ", rank, " (", hello.mesh_address(), ", ",
                      hello.device(), ", pid ", hello.pid(), ")");
}

RankPlace PlaceOf(const wire::Hello& hello) {
  return {hello.device(), hello.mesh_address(), hello.pid()};
}

}  // namespace

RemoteRanks::RemoteRanks(int group, const RemoteWorkersOptions& options,
                         const Clock* clock, std::shared_ptr<Observer> observer,
                         std::vector<RemoteRank> ranks)
    : group_(group),
      options_(options),
      deadlines_{.step = options.step_deadline_seconds,
                 .answer = options.formation_timeout_seconds,
                 .load = options.load_deadline_seconds},
      clock_(clock),
      observer_(std::move(observer)),
      ranks_(std::move(ranks)),
      logged_(ranks_.size()),
      loaded_(ranks_.size()),
      results_(static_cast<int>(ranks_.size())) {
  for (size_t r = 0; r < ranks_.size(); ++r) {
    state_.ranks.push_back({.name = NameOf(r, ranks_[r].hello),
                            .heard = clock_->Now(),
                            .answered = clock_->Now()});
    logged_[r].when = clock_->Now();
  }
}

std::vector<int64_t> RemoteRanks::pids() const {
  std::vector<int64_t> pids;
  for (const RemoteRank& rank : ranks_) pids.push_back(rank.hello.pid());
  return pids;
}

std::vector<double> RemoteRanks::last_answers() const {
  std::lock_guard lock(mutex_);
  std::vector<double> answers;
  for (const RankState& rank : state_.ranks) answers.push_back(rank.heard);
  return answers;
}

bool RemoteRanks::ready() const {
  std::lock_guard lock(mutex_);
  return ready_ && status_.ok();
}

bool RemoteRanks::was_ready() const {
  std::lock_guard lock(mutex_);
  return ready_;
}

std::optional<Fault> RemoteRanks::fault() const {
  std::lock_guard lock(mutex_);
  return fault_;
}

absl::Status RemoteRanks::leaving() const {
  std::lock_guard lock(mutex_);
  return leaving_;
}

absl::Status RemoteRanks::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

void RemoteRanks::SendAssignments() {
  wire::Assign assign;
  assign.set_group(group_);
  assign.set_size(static_cast<int>(ranks_.size()));
  assign.set_model(Encode(options_.model));
  for (const RemoteRank& rank : ranks_) {
    assign.add_mesh_addresses(rank.hello.mesh_address());
    assign.add_host_ids(rank.hello.host_id());
  }
  assign.set_nonce(RandomBits64());
  assign.set_mesh_secret(RandomBytes(kMeshSecretBytes));
  assign.set_operation_timeout_seconds(options_.step_deadline_seconds *
                                       kOperationShare);
  assign.set_max_sequences(options_.max_sequences);
  assign.set_connect_timeout_seconds(options_.formation_timeout_seconds);
  for (size_t r = 0; r < ranks_.size(); ++r) {
    auto message = std::make_shared<wire::CoordinatorMessage>();
    *message->mutable_assign() = assign;
    message->mutable_assign()->set_rank(static_cast<int>(r));
    ranks_[r].stream->Send(std::move(message));
    H2O_LOG() << "group " << group_ << ": " << state_.ranks[r].name << " loads";
  }
}

// ---- What the workers say

void RemoteRanks::OnHere(int rank) {
  std::lock_guard lock(mutex_);
  state_.ranks[rank].answered = clock_->Now();
}

void RemoteRanks::OnProgress(int rank, float fraction) {
  std::lock_guard lock(mutex_);
  RankState& state = state_.ranks[rank];
  Logged& logged = logged_[rank];
  state.heard = clock_->Now();
  // Also refuses NaN.
  if (!(fraction >= logged.fraction + kLoggedFraction) ||
      state.heard < logged.when + kLoggedSeconds) {
    return;
  }
  logged = {state.heard, fraction};
  H2O_LOG() << "group " << group_ << ": " << state.name << " has loaded "
            << static_cast<int>(std::clamp(fraction, 0.f, 1.f) * 100) << "%";
}

void RemoteRanks::OnReady(int rank, const std::string& bytes) {
  absl::StatusOr<RankInfo> info = DecodeRankInfo(bytes, options_.config);
  if (!info.ok()) return Refuse(rank, info.status());
  {
    std::unique_lock lock(mutex_);
    if (!status_.ok()) return;
    if (loaded_[rank]) {
      lock.unlock();
      return Refuse(rank, absl::FailedPreconditionError("a second Ready"));
    }
    loaded_[rank] = *std::move(info);
    state_.ranks[rank].loaded = true;
    if (!std::all_of(loaded_.begin(), loaded_.end(),
                     [](const auto& loaded) { return loaded.has_value(); })) {
      return;
    }
  }
  for (size_t r = 1; r < loaded_.size(); ++r) {
    const absl::Status alike = CheckAlike(*loaded_[0], *loaded_[r]);
    if (!alike.ok()) return Refuse(static_cast<int>(r), alike);
  }
  const absl::Status same =
      observer_->CheckFingerprint(loaded_[0]->fingerprint);
  if (!same.ok()) return Refuse(0, same);
  BecomeReady();
  observer_->OnRanksReady(shared_from_this());
}

void RemoteRanks::BecomeReady() {
  std::lock_guard lock(mutex_);
  int64_t pages = 0;
  info_.number = group_;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    info_.ranks.push_back(*loaded_[r]);
    info_.places.push_back(PlaceOf(ranks_[r].hello));
    pages += loaded_[r]->num_slabs;
    state_.ranks[r].heard = clock_->Now();
  }
  ready_ = true;
  const MemoryPlan memory = info_.memory();
  H2O_LOG() << "group " << group_ << " is ready: " << ranks_.size()
            << " ranks, " << pages << " KV " << info_.geometry().SlabsName()
            << " of " << info_.geometry().SlabBytes() << " B ("
            << (memory.kv_pool >> 20) << " MiB), workspace "
            << (memory.workspace >> 20) << " MiB";
}

void RemoteRanks::OnResult(int rank, const std::string& bytes) {
  absl::StatusOr<StepResult> result = DecodeResult(bytes, options_.config);
  if (!result.ok()) {
    return Refuse(rank,
                  absl::InvalidArgumentError(absl::StrCat(
                      "a malformed result: ", result.status().message())));
  }
  std::unique_lock lock(mutex_);
  if (results_.waiting(rank) >= static_cast<int>(state_.sent.size())) {
    lock.unlock();
    return Refuse(rank,
                  absl::FailedPreconditionError(absl::StrCat(
                      "result of step ", result->step, " answers no plan")));
  }
  state_.ranks[rank].heard = clock_->Now();
  state_.ranks[rank].owes = false;
  results_.Push(rank, *std::move(result));
  changed_.notify_all();
}

void RemoteRanks::OnFailed(int rank, const absl::Status& failure) {
  std::unique_lock lock(mutex_);
  if (absl::IsUnavailable(failure)) {
    state_.ranks[rank].complaint = std::string(failure.message());
    if (state_.complained == 0) state_.complained = clock_->Now();
    changed_.notify_all();
  }
  const Blame blame = AfterFailure(state_, rank, failure);
  lock.unlock();
  if (!blame.ok()) End(blame);
}

void RemoteRanks::OnLeaving(int rank) {
  const std::string& name = state_.ranks[rank].name;
  H2O_LOG() << "group " << group_ << ": " << name << " was told to stop";
  Leave(absl::UnavailableError(absl::StrCat(name, " was told to stop")));
}

void RemoteRanks::OnEnd(int rank) {
  std::unique_lock lock(mutex_);
  const Blame blame = AfterEnd(state_, rank);
  lock.unlock();
  End(blame);
}

void RemoteRanks::Tick(bool draining) {
  std::unique_lock lock(mutex_);
  if (!status_.ok()) return;
  const double now = clock_->Now();
  const bool leaves = !leaving_.ok() && !ready_ && !draining &&
                      now - leaves_since_ > WorkerGroup::kLeavingSeconds;
  const Blame blame = CheckRanks(state_, deadlines_, now);
  lock.unlock();
  if (!blame.ok()) return End(blame);
  if (leaves) Release();
}

void RemoteRanks::Leave(const absl::Status& reason) {
  std::lock_guard lock(mutex_);
  if (!leaving_.ok()) return;
  leaving_ = reason;
  leaves_since_ = clock_->Now();
}

// ---- Steps

absl::Status RemoteRanks::Submit(const StepPlan& plan) {
  auto message = std::make_shared<wire::CoordinatorMessage>();
  message->set_plan(Encode(plan));
  {
    std::lock_guard lock(mutex_);
    if (!status_.ok()) return status_;
    H2O_CHECK(state_.sent.size() < WorkerGroup::kMaxPlansInFlight);
    state_.sent.push_back(clock_->Now());
  }
  for (const RemoteRank& rank : ranks_) rank.stream->Send(message);
  return absl::OkStatus();
}

absl::StatusOr<GroupResult> RemoteRanks::Next() {
  std::unique_lock lock(mutex_);
  while (true) {
    // A step that all ranks finished counts, even if a rank was lost since.
    H2O_CHECK(!state_.sent.empty() || !status_.ok());
    if (!state_.sent.empty() && results_.Complete()) break;
    if (!status_.ok()) return status_;
    const double now = clock_->Now();
    const Blame blame = CheckStep(state_, deadlines_, now);
    if (!blame.ok()) {
      lock.unlock();
      End(blame);
      return blame.status;
    }
    const double left = deadlines_.step - (now - StepBegan(state_));
    changed_.wait_for(lock, std::chrono::duration<double>(
                                std::min(left, RunningClock::kLookSeconds)));
  }
  absl::StatusOr<GroupResult> merged = results_.Take();
  state_.sent.pop_front();
  state_.last_done = clock_->Now();
  for (size_t r = 0; r < ranks_.size(); ++r) {
    state_.ranks[r].owes = results_.Owes(static_cast<int>(r));
  }
  const int diverged = results_.diverged();
  lock.unlock();
  if (merged.ok()) return merged;
  absl::Status named(merged.status().code(),
                     absl::StrCat(state_.ranks[diverged].name, ": ",
                                  merged.status().message()));
  End({named, FaultKind::kChecksum, diverged});
  return named;
}

// ---- Ends

void RemoteRanks::Abort(const absl::Status& reason) {
  {
    std::lock_guard lock(mutex_);
    results_.Clear();
  }
  End({.status = reason});
}

void RemoteRanks::Release() {
  absl::Status reason;
  {
    std::lock_guard lock(mutex_);
    if (!status_.ok()) return;
    reason = status_ = leaving_;
    changed_.notify_all();
  }
  observer_->OnRanksLeft(shared_from_this(), reason);
  const absl::Status over = absl::UnavailableError(
      absl::StrCat("group ", group_, " is over: ", reason.message()));
  for (const RemoteRank& rank : ranks_) {
    rank.stream->Close(over, kStreamEndDrained);
  }
}

void RemoteRanks::Dismiss() {
  auto bye = std::make_shared<wire::CoordinatorMessage>();
  bye->mutable_shutdown();
  {
    std::lock_guard lock(mutex_);
    if (!status_.ok()) return;
    status_ = absl::UnavailableError("the coordinator shuts down");
    changed_.notify_all();
  }
  for (const RemoteRank& rank : ranks_) {
    rank.stream->Send(bye);
    rank.stream->Close(absl::OkStatus());
  }
}

void RemoteRanks::Refuse(int rank, const absl::Status& why) {
  End({absl::UnavailableError(absl::StrCat(state_.ranks[rank].name,
                                           " was refused: ", why.ToString())),
       FaultKind::kProtocol, rank},
      rank, why);
}

Fault RemoteRanks::FaultOf(const Blame& blame) const {
  const wire::Hello& hello = ranks_[blame.rank].hello;
  const std::chrono::duration<double> since_epoch =
      std::chrono::system_clock::now().time_since_epoch();
  return {.kind = blame.kind,
          .group = group_,
          .rank = blame.rank,
          .place = PlaceOf(hello),
          .unix_seconds = since_epoch.count(),
          .words = std::string(blame.status.message())};
}

void RemoteRanks::End(const Blame& blame, int refused,
                      const absl::Status& why) {
  std::optional<Fault> fault;
  if (blame.rank >= 0) fault = FaultOf(blame);
  {
    std::lock_guard lock(mutex_);
    if (!status_.ok()) return;
    status_ = blame.status;
    fault_ = fault;
    changed_.notify_all();
  }
  const absl::Status over = absl::UnavailableError(
      absl::StrCat("group ", group_, " is over: ", blame.status.message()));
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (static_cast<int>(r) == refused) {
      ranks_[r].stream->Close(why, kStreamEndRefused);
    } else {
      ranks_[r].stream->Close(over);
    }
  }
  observer_->OnRanksOver(shared_from_this(), blame.status, fault);
}

// ---- GroupOf

namespace {

class RemoteGroup final : public WorkerGroup {
 public:
  explicit RemoteGroup(std::shared_ptr<RemoteRanks> ranks)
      : ranks_(std::move(ranks)) {}
  ~RemoteGroup() override {
    ranks_->Abort(absl::UnavailableError("the group is not used any more"));
  }
  const GroupInfo& info() const override { return ranks_->info(); }
  absl::Status status() const override { return ranks_->status(); }
  std::optional<Fault> fault() const override { return ranks_->fault(); }
  absl::Status leaving() const override { return ranks_->leaving(); }
  void Release() override { ranks_->Release(); }
  std::vector<double> last_answers() const override {
    return ranks_->last_answers();
  }
  absl::Status Submit(const StepPlan& plan) override {
    return ranks_->Submit(plan);
  }
  absl::StatusOr<GroupResult> Next() override { return ranks_->Next(); }
  void Abort(absl::Status reason) override { ranks_->Abort(reason); }

 private:
  const std::shared_ptr<RemoteRanks> ranks_;
};

}  // namespace

std::unique_ptr<WorkerGroup> GroupOf(std::shared_ptr<RemoteRanks> ranks) {
  return std::make_unique<RemoteGroup>(std::move(ranks));
}

}  // namespace h2o
