#include "coordinator/remote_workers.h"

#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/entropy.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/convert.h"
#include "proto/grpc_status.h"
#include "proto/worker.grpc.pb.h"

namespace h2o {
namespace {

namespace wire = h2oserve::worker;

// A stream that does not introduce itself is closed after this long.
constexpr double kHelloSeconds = 10;

// While a group loads, a rank's complaint about another waits this long for
// that other one's stream to break: then the right one is named.
constexpr double kComplaintSeconds = 0.3;

// A worker that was told to stop keeps its group this long: when a whole job
// is told to stop at once, the coordinator is about to say so, and drains.
constexpr double kLeavingSeconds = 1;

// Ranks give up waiting for each other a little before the coordinator gives
// up waiting for them, so that they can say whom they wait for.
constexpr double kOperationShare = 0.8;

std::string Seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f s", seconds);
  return text;
}

// Fit for a line of a log.
bool IsPlainWord(const std::string& text) {
  return !text.empty() && text.size() < 256 &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return c > ' ' && c <= '~'; });
}

class Group;

// ---- WorkerStream: one worker's end of Join ----

// Queues writes, because a stream takes one at a time, and ends only after the
// last of them.  Lives until gRPC is done with it and nobody refers to it.
//
// Threads  Send and Close may be called by any thread.
class WorkerStream final
    : public grpc::ServerBidiReactor<wire::WorkerMessage,
                                     wire::CoordinatorMessage> {
 public:
  using Message = std::shared_ptr<const wire::CoordinatorMessage>;

  struct Observer {
    virtual ~Observer() = default;
    virtual void OnMessage(WorkerStream* stream,
                           const wire::WorkerMessage& message) = 0;
    // The peer is gone, or Close was called; no message follows.  May come
    // twice.
    virtual void OnEnd(WorkerStream* stream) = 0;
  };

  static WorkerStream* Open(std::shared_ptr<Observer> observer, double now) {
    auto stream = std::make_shared<WorkerStream>(std::move(observer), now);
    stream->self_ = stream;
    stream->StartRead(&stream->incoming_);
    return stream.get();
  }

  WorkerStream(std::shared_ptr<Observer> observer, double now)
      : opened(now), observer_(std::move(observer)) {}

  void Send(Message message) {
    std::lock_guard lock(mutex_);
    if (closing_) return;
    outgoing_.push_back(std::move(message));
    if (outgoing_.size() == 1) StartWrite(outgoing_.front().get());
  }

  // The first call counts.
  void Close(const absl::Status& reason) {
    std::lock_guard lock(mutex_);
    if (closing_) return;
    closing_ = true;
    reason_ = ToGrpc(reason);
    if (outgoing_.empty()) Finish(reason_);
  }

  std::shared_ptr<WorkerStream> shared() {
    std::lock_guard lock(mutex_);
    return self_;
  }

  void OnReadDone(bool ok) override {
    if (!ok) return observer_->OnEnd(this);
    observer_->OnMessage(this, incoming_);
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    outgoing_.pop_front();
    if (!ok) outgoing_.clear();  // the pending read reports the broken stream
    if (!outgoing_.empty()) {
      StartWrite(outgoing_.front().get());
    } else if (closing_) {
      Finish(reason_);
    }
  }
  void OnCancel() override { observer_->OnEnd(this); }
  void OnDone() override {
    observer_->OnEnd(this);
    std::shared_ptr<WorkerStream> last;
    std::lock_guard lock(mutex_);
    last.swap(self_);  // destroyed after the lock is released
  }

  // Guarded by the observer's lock.
  const double opened;
  bool greeted = false;
  wire::Hello hello;
  std::shared_ptr<Group> group;
  int rank = 0;

 private:
  const std::shared_ptr<Observer> observer_;
  wire::WorkerMessage incoming_;  // of the one read in flight

  std::mutex mutex_;
  std::shared_ptr<WorkerStream> self_;  // until OnDone
  std::deque<Message> outgoing_;        // the first is being written
  bool closing_ = false;
  grpc::Status reason_;
};

// ---- Group ----

// The ranks of one copy of the model, from their assignment to their end.
//
// Threads  Submit and Next by one thread (REQUIRES of WorkerGroup); all else by
//          any, without locks held.
class Group final : public std::enable_shared_from_this<Group> {
 public:
  struct Observer {
    virtual ~Observer() = default;
    virtual absl::Status CheckFingerprint(const std::string& fingerprint) = 0;
    virtual void OnGroupReady(std::shared_ptr<Group> group) = 0;
    virtual void OnGroupOver(std::shared_ptr<Group> group,
                             const absl::Status& reason) = 0;
  };

  Group(int number, const RemoteWorkersOptions& options, const Clock* clock,
        std::shared_ptr<Observer> observer,
        std::vector<std::shared_ptr<WorkerStream>> streams)
      : number_(number),
        options_(options),
        clock_(clock),
        observer_(std::move(observer)) {
    for (auto& stream : streams) {
      const wire::Hello& hello = stream->hello;
      Rank rank;
      rank.name =
          absl::StrCat("rank ", ranks_.size(), " (", hello.mesh_address(), ", ",
                       hello.device(), ", pid ", hello.pid(), ")");
      rank.stream = std::move(stream);
      rank.heard = rank.logged = clock_->Now();
      ranks_.push_back(std::move(rank));
    }
  }

  int number() const { return number_; }
  bool ready() const {
    std::lock_guard lock(mutex_);
    return ready_ && status_.ok();
  }
  absl::Status status() const {
    std::lock_guard lock(mutex_);
    return status_;
  }
  std::string fingerprint() const {
    std::lock_guard lock(mutex_);
    return ranks_[0].ready.fingerprint();
  }
  const GroupInfo& info() const { return info_; }  // constant once ready

  void SendAssignments() {
    wire::Assign assign;
    assign.set_group(number_);
    assign.set_size(static_cast<int>(ranks_.size()));
    ToProto(options_.model, assign.mutable_model());
    ToProto(options_.config, assign.mutable_config());
    for (const Rank& rank : ranks_) {
      assign.add_mesh_addresses(rank.stream->hello.mesh_address());
      assign.add_host_ids(rank.stream->hello.host_id());
    }
    assign.set_nonce(RandomBits64());
    assign.set_operation_timeout_seconds(options_.step_deadline_seconds *
                                         kOperationShare);
    assign.set_load_timeout_seconds(options_.load_deadline_seconds);
    assign.set_max_sequences(options_.max_sequences);
    for (size_t r = 0; r < ranks_.size(); ++r) {
      auto message = std::make_shared<wire::CoordinatorMessage>();
      *message->mutable_assign() = assign;
      message->mutable_assign()->set_rank(static_cast<int>(r));
      ranks_[r].stream->Send(std::move(message));
      H2O_LOG() << "group " << number_ << ": " << ranks_[r].name << " loads";
    }
  }

  void OnProgress(int r, float fraction) {
    std::lock_guard lock(mutex_);
    Rank& rank = ranks_[r];
    rank.heard = clock_->Now();
    // Also refuses NaN.
    if (!(fraction >= rank.logged_fraction + 0.1f) ||
        rank.heard < rank.logged + 2) {
      return;
    }
    rank.logged = rank.heard;
    rank.logged_fraction = fraction;
    H2O_LOG() << "group " << number_ << ": " << rank.name << " has loaded "
              << static_cast<int>(std::clamp(fraction, 0.f, 1.f) * 100) << "%";
  }

  void OnReady(int r, const wire::Ready& ready) {
    if (absl::Status status = CheckReady(ready); !status.ok()) {
      return Refuse(r, status);
    }
    {
      std::unique_lock lock(mutex_);
      if (!status_.ok()) return;
      if (ranks_[r].is_ready) {
        lock.unlock();
        return Refuse(r, absl::FailedPreconditionError("a second Ready"));
      }
      ranks_[r].ready = ready;
      ranks_[r].is_ready = true;
      if (!std::all_of(ranks_.begin(), ranks_.end(),
                       [](const Rank& rank) { return rank.is_ready; })) {
        return;
      }
    }
    for (size_t i = 1; i < ranks_.size(); ++i) {
      absl::Status same = CheckAlike(ranks_[0].ready, ranks_[i].ready);
      if (!same.ok()) return Refuse(static_cast<int>(i), same);
    }
    if (absl::Status status =
            observer_->CheckFingerprint(ranks_[0].ready.fingerprint());
        !status.ok()) {
      return Refuse(0, status);
    }
    BecomeReady();
    observer_->OnGroupReady(shared_from_this());
  }

  void OnResult(int r, const wire::StepResult& message) {
    absl::StatusOr<StepResult> result = FromProto(message, options_.config);
    if (!result.ok()) {
      return Refuse(r, absl::InvalidArgumentError(absl::StrCat(
                           "a malformed result: ", result.status().message())));
    }
    std::unique_lock lock(mutex_);
    Rank& rank = ranks_[r];
    rank.heard = clock_->Now();
    if (rank.results.size() >= in_flight_.size()) {
      lock.unlock();
      return Refuse(
          r, absl::FailedPreconditionError(absl::StrCat(
                 "result of step ", message.step(), " answers no plan")));
    }
    rank.results.push_back(*std::move(result));
    changed_.notify_all();
  }

  void OnFailed(int r, absl::Status failure) {
    std::unique_lock lock(mutex_);
    Rank& rank = ranks_[r];
    // UNAVAILABLE is a complaint about another rank.  If that one's stream
    // breaks as well, or it stays silent, it is named; see OnEnd and Next.
    if (failure.code() == absl::StatusCode::kUnavailable) {
      rank.complaint = std::string(failure.message());
      if (complained_ == 0) complained_ = clock_->Now();
      if (AnySuspect()) {
        changed_.notify_all();
        return;
      }
    }
    const absl::Status reason = Blame(rank, failure);
    lock.unlock();
    End(reason);
  }

  void OnLeaving(int r) {
    std::lock_guard lock(mutex_);
    ranks_[r].leaving = clock_->Now();
    H2O_LOG() << "group " << number_ << ": " << ranks_[r].name
              << " was told to stop";
  }

  // The stream of rank `r` ended.
  void OnEnd(int r) {
    std::unique_lock lock(mutex_);
    const Rank& rank = ranks_[r];
    const absl::Status reason =
        rank.complaint.empty()
            ? absl::UnavailableError(absl::StrCat(rank.name, " is gone"))
            : Blame(rank, absl::UnavailableError(rank.complaint));
    lock.unlock();
    End(reason);
  }

  void Tick(bool draining) {
    const double now = clock_->Now();
    std::unique_lock lock(mutex_);
    if (!status_.ok()) return;
    absl::Status reason;
    for (const Rank& rank : ranks_) {
      if (!ready_ && !rank.is_ready &&
          now - rank.heard > options_.load_deadline_seconds) {
        reason = absl::UnavailableError(
            absl::StrCat(rank.name, " is silent for ",
                         Seconds(now - rank.heard), " while loading"));
      } else if (rank.leaving > 0 && !draining &&
                 now - rank.leaving > kLeavingSeconds) {
        reason = absl::UnavailableError(
            absl::StrCat(rank.name, " was told to stop"));
      } else if (!rank.complaint.empty() && in_flight_.empty() &&
                 now - complained_ > kComplaintSeconds) {
        reason = Blame(rank, absl::UnavailableError(rank.complaint));
      }
    }
    lock.unlock();
    if (!reason.ok()) End(reason);
  }

  absl::Status Submit(const StepPlan& plan) {
    auto message = std::make_shared<wire::CoordinatorMessage>();
    ToProto(plan, message->mutable_plan());
    {
      std::lock_guard lock(mutex_);
      if (!status_.ok()) return status_;
      H2O_CHECK(in_flight_.size() < WorkerGroup::kMaxPlansInFlight);
      in_flight_.push_back(clock_->Now());
    }
    for (Rank& rank : ranks_) rank.stream->Send(message);
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> Next() {
    std::unique_lock lock(mutex_);
    while (true) {
      // A step that all ranks finished counts, whoever died since.
      H2O_CHECK(!in_flight_.empty() || !status_.ok());
      const bool complete = !in_flight_.empty() &&
                            std::none_of(ranks_.begin(), ranks_.end(), Owes);
      if (complete) break;
      if (!status_.ok()) return status_;
      // A plan that was sent ahead starts when the one before it is done.
      const double now = clock_->Now();
      const double waited = now - std::max(in_flight_.front(), last_done_);
      const double left = options_.step_deadline_seconds - waited;
      const bool only_complaints = complained_ > 0 && !AnySuspect();
      if (left <= 0 || only_complaints) {
        const absl::Status reason =
            only_complaints ? FirstComplaint() : PastDeadline(waited);
        lock.unlock();
        End(reason);
        return reason;
      }
      changed_.wait_for(lock,
                        std::chrono::duration<double>(std::min(left, 1.0)));
    }
    std::vector<StepResult> results;
    for (Rank& rank : ranks_) {
      results.push_back(std::move(rank.results.front()));
      rank.results.pop_front();
    }
    in_flight_.pop_front();
    last_done_ = clock_->Now();
    lock.unlock();
    absl::StatusOr<StepResult> merged = MergeResults(std::move(results));
    if (!merged.ok()) End(merged.status());
    return merged;
  }

  // The engine's word: also forgets results that already came.
  void Abort(absl::Status reason) {
    {
      std::lock_guard lock(mutex_);
      for (Rank& rank : ranks_) rank.results.clear();
    }
    End(reason);
  }

  // Sends all workers home, with no reason to complain.
  void Dismiss() {
    auto bye = std::make_shared<wire::CoordinatorMessage>();
    bye->mutable_shutdown();
    {
      std::lock_guard lock(mutex_);
      if (!status_.ok()) return;
      status_ = absl::UnavailableError("the coordinator shuts down");
      changed_.notify_all();
    }
    for (Rank& rank : ranks_) {
      rank.stream->Send(bye);
      rank.stream->Close(absl::OkStatus());
    }
  }

 private:
  struct Rank {
    std::string name;
    std::shared_ptr<WorkerStream> stream;
    double heard = 0;    // when it last said something
    double leaving = 0;  // since when it wants to leave; 0: not
    double logged = 0;
    float logged_fraction = 0;
    bool is_ready = false;
    wire::Ready ready;
    std::string complaint;  // about another rank; empty: none
    std::deque<StepResult> results;
  };

  static bool Owes(const Rank& rank) { return rank.results.empty(); }
  // Might be the one that others wait for.
  static bool Suspect(const Rank& rank) {
    return rank.complaint.empty() && Owes(rank);
  }

  static absl::Status Blame(const Rank& rank, const absl::Status& failure) {
    if (failure.code() == absl::StatusCode::kUnavailable) {
      return absl::UnavailableError(
          absl::StrCat(rank.name, " reports: ", failure.message()));
    }
    return absl::UnavailableError(
        absl::StrCat(rank.name, " failed: ", failure.ToString()));
  }

  bool AnySuspect() const {
    return std::any_of(ranks_.begin(), ranks_.end(), Suspect);
  }

  // REQUIRES: there is one.
  absl::Status FirstComplaint() const {
    const auto rank =
        std::find_if(ranks_.begin(), ranks_.end(),
                     [](const Rank& rank) { return !rank.complaint.empty(); });
    return Blame(*rank, absl::UnavailableError(rank->complaint));
  }

  // REQUIRES: there is a suspect.
  absl::Status PastDeadline(double waited) const {
    std::vector<std::string> silent;
    for (const Rank& rank : ranks_) {
      if (Suspect(rank)) silent.push_back(rank.name);
    }
    return absl::UnavailableError(absl::StrCat(
        absl::StrJoin(silent, " and "), silent.size() == 1 ? " is" : " are",
        " silent for ", Seconds(waited), ", past the step deadline"));
  }

  absl::Status CheckReady(const wire::Ready& ready) const {
    absl::StatusOr<ModelConfig> config = FromProto(ready.config());
    if (!config.ok()) return config.status();
    H2O_RETURN_IF_ERROR(CheckSameModel(options_.config, *config));
    const std::optional<DType> kv_dtype = ParseDType(ready.kv_dtype());
    if (!kv_dtype) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv_dtype is '", ready.kv_dtype(),
                       "'; it must be float32, bf16 or fp16"));
    }
    const int64_t page_bytes = Geometry(*kv_dtype).PageBytes();
    if (ready.page_bytes() != page_bytes) {
      return absl::FailedPreconditionError(absl::StrCat(
          "another build: a page has ", ready.page_bytes(),
          " bytes in the worker and ", page_bytes, " in the coordinator"));
    }
    if (ready.num_pages() < 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "num_pages is ", ready.num_pages(), "; it must be at least 1"));
    }
    return absl::OkStatus();
  }

  static absl::Status CheckAlike(const wire::Ready& a, const wire::Ready& b) {
    if (a.fingerprint() != b.fingerprint()) {
      return absl::FailedPreconditionError(
          absl::StrCat("another model: its fingerprint is ", b.fingerprint(),
                       ", rank 0's is ", a.fingerprint()));
    }
    if (a.packed_tokens() != b.packed_tokens()) {
      return absl::FailedPreconditionError(
          absl::StrCat("its prefill packs ", b.packed_tokens(),
                       " tokens, rank 0's ", a.packed_tokens(),
                       "; all ranks must run on the same kind of device"));
    }
    if (a.kv_dtype() != b.kv_dtype()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "its kv_dtype is ", b.kv_dtype(), ", rank 0's is ", a.kv_dtype()));
    }
    return absl::OkStatus();
  }

  KvGeometry Geometry(DType kv_dtype) const {
    return {
        .num_layers = options_.config.num_layers,
        .num_heads = options_.config.qkv.kv_heads,
        .page = {.head_dim = options_.config.qkv.head_dim, .dtype = kv_dtype}};
  }

  void BecomeReady() {
    std::lock_guard lock(mutex_);
    info_.config = options_.config;
    info_.geometry = Geometry(*ParseDType(ranks_[0].ready.kv_dtype()));
    info_.packed_tokens = ranks_[0].ready.packed_tokens();
    int64_t pages = 0, workspace = 0;
    for (const Rank& rank : ranks_) {
      info_.num_pages.push_back(rank.ready.num_pages());
      pages += rank.ready.num_pages();
      workspace += rank.ready.workspace_bytes();
    }
    ready_ = true;
    H2O_LOG() << "group " << number_ << " is ready: " << ranks_.size()
              << " ranks, " << pages << " KV pages of "
              << info_.geometry.PageBytes() << " B ("
              << (pages * info_.geometry.PageBytes() >> 20)
              << " MiB), workspace " << (workspace >> 20) << " MiB";
  }

  // Ends the group because of what rank `r` is or sent, and tells it.
  void Refuse(int r, const absl::Status& why) {
    End(absl::UnavailableError(
            absl::StrCat(ranks_[r].name, " was refused: ", why.ToString())),
        ranks_[r].stream.get(), why);
  }

  // All streams end with `reason`, but `refused` with `why`.  The first call
  // counts.
  void End(const absl::Status& reason, const WorkerStream* refused = nullptr,
           const absl::Status& why = {}) {
    {
      std::lock_guard lock(mutex_);
      if (!status_.ok()) return;
      status_ = reason;
      changed_.notify_all();
    }
    const absl::Status over = absl::UnavailableError(
        absl::StrCat("group ", number_, " is over: ", reason.message()));
    for (Rank& rank : ranks_) {
      rank.stream->Close(rank.stream.get() == refused ? why : over);
    }
    observer_->OnGroupOver(shared_from_this(), reason);
  }

  const int number_;
  const RemoteWorkersOptions options_;
  const Clock* const clock_;
  const std::shared_ptr<Observer> observer_;
  GroupInfo info_;  // set before ready_

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Rank> ranks_;  // names and streams are constant
  bool ready_ = false;
  absl::Status status_;           // OK until the group is over
  std::deque<double> in_flight_;  // when each unanswered plan was sent
  double last_done_ = 0;          // when Next last had a result
  double complained_ = 0;         // when the first complaint came; 0: none
};

// What the engine holds of a group.
class RemoteGroup final : public WorkerGroup {
 public:
  explicit RemoteGroup(std::shared_ptr<Group> group)
      : group_(std::move(group)) {}
  ~RemoteGroup() override {
    group_->Abort(absl::UnavailableError("the group is not used any more"));
  }
  const GroupInfo& info() const override { return group_->info(); }
  absl::Status status() const override { return group_->status(); }
  absl::Status Submit(const StepPlan& plan) override {
    return group_->Submit(plan);
  }
  absl::StatusOr<StepResult> Next() override { return group_->Next(); }
  void Abort(absl::Status reason) override { group_->Abort(std::move(reason)); }

 private:
  const std::shared_ptr<Group> group_;
};

}  // namespace

// ---- Registry: all streams, who waits and who belongs where ----

// Locks are taken in this order: Registry, Group, WorkerStream.
class RemoteWorkers::Registry final
    : public wire::Workers::CallbackService,
      public WorkerStream::Observer,
      public Group::Observer,
      public std::enable_shared_from_this<Registry> {
 public:
  Registry(const RemoteWorkersOptions& options, const Clock* clock,
           Observers observers)
      : options_(options),
        clock_(clock),
        observers_(std::move(observers)),
        wire_id_(WireId()) {}

  grpc::ServerBidiReactor<wire::WorkerMessage, wire::CoordinatorMessage>* Join(
      grpc::CallbackServerContext* /*context*/) override {
    WorkerStream* stream =
        WorkerStream::Open(shared_from_this(), clock_->Now());
    std::lock_guard lock(mutex_);
    strangers_.push_back(stream->shared());
    return stream;
  }

  void OnMessage(WorkerStream* stream,
                 const wire::WorkerMessage& message) override {
    if (message.has_hello()) return OnHello(stream, message.hello());
    std::shared_ptr<Group> group;
    int rank;
    {
      std::lock_guard lock(mutex_);
      group = stream->group;
      rank = stream->rank;
    }
    if (message.has_leaving() && group == nullptr) {
      return stream->Close(absl::OkStatus());
    }
    if (group == nullptr) {
      return stream->Close(absl::FailedPreconditionError(
          "the first message of a worker must be Hello, the next follows its "
          "assignment"));
    }
    switch (message.message_case()) {
      case wire::WorkerMessage::kProgress:
        return group->OnProgress(rank, message.progress().fraction());
      case wire::WorkerMessage::kReady:
        return group->OnReady(rank, message.ready());
      case wire::WorkerMessage::kResult:
        return group->OnResult(rank, message.result());
      case wire::WorkerMessage::kLeaving:
        return group->OnLeaving(rank);
      case wire::WorkerMessage::kFailed:
        return group->OnFailed(
            rank, absl::Status(static_cast<absl::StatusCode>(
                                   std::clamp(message.failed().code(), 1, 16)),
                               message.failed().text()));
      default:
        return stream->Close(absl::InvalidArgumentError("an empty message"));
    }
  }

  void OnEnd(WorkerStream* stream) override {
    std::shared_ptr<Group> group;
    {
      std::lock_guard lock(mutex_);
      const auto is_it = [&](const auto& other) {
        return other.get() == stream;
      };
      std::erase_if(strangers_, is_it);
      if (std::erase_if(spares_, is_it) > 0 && !shut_down_) {
        H2O_LOG() << "worker " << stream->hello.mesh_address()
                  << " left before it had a group";
      }
      group = std::move(stream->group);
      stream->group.reset();
    }
    if (group != nullptr) group->OnEnd(stream->rank);
    stream->Close(absl::CancelledError("the worker left"));
  }

  absl::Status CheckFingerprint(const std::string& fingerprint) override {
    std::lock_guard lock(mutex_);
    for (const auto& group : groups_) {
      if (group->ready() && group->fingerprint() != fingerprint) {
        return absl::FailedPreconditionError(
            absl::StrCat("another model: its fingerprint is ", fingerprint,
                         ", that of the running group ", group->number(),
                         " is ", group->fingerprint()));
      }
    }
    return absl::OkStatus();
  }

  void OnGroupReady(std::shared_ptr<Group> group) override {
    observers_.on_ready(std::make_unique<RemoteGroup>(std::move(group)));
  }

  void OnGroupOver(std::shared_ptr<Group> group,
                   const absl::Status& reason) override {
    H2O_LOG() << "group " << group->number()
              << " is over: " << reason.message();
    {
      std::lock_guard lock(mutex_);
      std::erase(groups_, group);
      FormGroups();
    }
    observers_.on_over(group->number(), reason);
  }

  int num_ready() const {
    std::lock_guard lock(mutex_);
    return static_cast<int>(
        std::count_if(groups_.begin(), groups_.end(),
                      [](const auto& group) { return group->ready(); }));
  }

  std::string Progress() const {
    std::lock_guard lock(mutex_);
    if (groups_.empty()) {
      return absl::StrCat(spares_.size(), " of ", options_.tp,
                          " workers have dialed in");
    }
    return "the workers are loading";
  }

  void Tick() {
    std::vector<std::shared_ptr<Group>> groups;
    bool draining;
    {
      std::lock_guard lock(mutex_);
      groups = groups_;
      draining = draining_;
      for (const auto& stream : strangers_) {
        if (clock_->Now() - stream->opened > kHelloSeconds) {
          stream->Close(absl::DeadlineExceededError(
              absl::StrCat("no Hello within ", Seconds(kHelloSeconds))));
        }
      }
    }
    for (const auto& group : groups) group->Tick(draining);
  }

  void Drain() {
    std::lock_guard lock(mutex_);
    draining_ = true;
  }

  void Shutdown() {
    std::lock_guard lock(mutex_);
    shut_down_ = true;
    auto bye = std::make_shared<wire::CoordinatorMessage>();
    bye->mutable_shutdown();
    for (const auto& spare : spares_) {
      spare->Send(bye);
      spare->Close(absl::OkStatus());
    }
    for (const auto& group : groups_) group->Dismiss();
    groups_.clear();
  }

 private:
  // REQUIRES: mutex_ is held.
  absl::Status CheckHello(const wire::Hello& hello) const {
    if (shut_down_) {
      return absl::UnavailableError("the coordinator shuts down");
    }
    if (hello.version() != options_.version) {
      return absl::FailedPreconditionError(
          absl::StrCat("another version: the worker is ", hello.version(),
                       ", the coordinator is ", options_.version));
    }
    if (hello.wire() != wire_id_) {
      return absl::FailedPreconditionError(
          absl::StrCat("another build: the worker speaks wire ", hello.wire(),
                       ", the coordinator ", wire_id_));
    }
    const std::string build = BuildOfOthers();
    if (!build.empty() && hello.build() != build) {
      return absl::FailedPreconditionError(
          absl::StrCat("another build: this worker is ", hello.build(),
                       ", those already here are ", build));
    }
    if (hello.has_config()) {
      absl::StatusOr<ModelConfig> config = FromProto(hello.config());
      if (!config.ok()) return config.status();
      H2O_RETURN_IF_ERROR(CheckSameModel(options_.config, *config));
    }
    for (const std::string& word :
         {hello.mesh_address(), hello.device(), hello.host_id()}) {
      if (!IsPlainWord(word)) {
        return absl::InvalidArgumentError(
            "mesh_address, device and host_id of Hello must each be 1 to 255 "
            "printable characters");
      }
    }
    return absl::OkStatus();
  }

  std::string BuildOfOthers() const {
    if (!spares_.empty()) return spares_.front()->hello.build();
    return groups_.empty() ? "" : build_;
  }

  void OnHello(WorkerStream* stream, const wire::Hello& hello) {
    std::lock_guard lock(mutex_);
    absl::Status status = stream->greeted
                              ? absl::FailedPreconditionError("a second Hello")
                              : CheckHello(hello);
    if (!status.ok()) {
      H2O_LOG() << "worker " << hello.mesh_address() << " (" << hello.device()
                << ", pid " << hello.pid()
                << ") is refused: " << status.message();
      return stream->Close(status);
    }
    stream->greeted = true;
    stream->hello = hello;
    std::shared_ptr<WorkerStream> shared = stream->shared();
    std::erase(strangers_, shared);
    spares_.push_back(std::move(shared));
    H2O_LOG() << "worker " << hello.mesh_address() << " (" << hello.device()
              << ", pid " << hello.pid() << ") dialed in";
    FormGroups();
  }

  // REQUIRES: mutex_ is held.
  void FormGroups() {
    while (!shut_down_ && static_cast<int>(groups_.size()) < options_.groups) {
      std::vector<std::shared_ptr<WorkerStream>> members = TakeMembers();
      if (members.empty()) return;
      int number = 0;
      while (std::any_of(
          groups_.begin(), groups_.end(),
          [&](const auto& group) { return group->number() == number; })) {
        ++number;
      }
      build_ = members[0]->hello.build();
      auto group = std::make_shared<Group>(number, options_, clock_,
                                           shared_from_this(), members);
      for (size_t r = 0; r < members.size(); ++r) {
        members[r]->group = group;
        members[r]->rank = static_cast<int>(r);
      }
      groups_.push_back(group);
      group->SendAssignments();
    }
  }

  // `tp` spare workers with the same kind of device, of one host if any host
  // has as many, the longest waiting first; none if there are too few.  Ranks
  // of one host are neighbours.
  // REQUIRES: mutex_ is held.
  std::vector<std::shared_ptr<WorkerStream>> TakeMembers() {
    const auto kind = [](const WorkerStream& stream) {
      return stream.hello.device().substr(0, stream.hello.device().find(':'));
    };
    for (const bool one_host : {true, false}) {
      for (const auto& first : spares_) {
        std::vector<std::shared_ptr<WorkerStream>> members;
        for (const auto& spare : spares_) {
          const bool same_host =
              spare->hello.host_id() == first->hello.host_id();
          if (kind(*spare) != kind(*first) || (one_host && !same_host))
            continue;
          members.push_back(spare);
          if (static_cast<int>(members.size()) < options_.tp) continue;
          std::stable_sort(members.begin(), members.end(),
                           [](const auto& a, const auto& b) {
                             return a->hello.host_id() < b->hello.host_id();
                           });
          std::erase_if(spares_, [&](const auto& other) {
            return std::find(members.begin(), members.end(), other) !=
                   members.end();
          });
          return members;
        }
      }
    }
    return {};
  }

  const RemoteWorkersOptions options_;
  const Clock* const clock_;
  const Observers observers_;
  const std::string wire_id_;

  mutable std::mutex mutex_;
  bool draining_ = false;
  bool shut_down_ = false;
  std::string build_;  // of the workers in groups_
  std::vector<std::shared_ptr<WorkerStream>> strangers_;  // have not said Hello
  std::vector<std::shared_ptr<WorkerStream>> spares_;  // longest waiting first
  std::vector<std::shared_ptr<Group>> groups_;         // forming or ready
};

RemoteWorkers::RemoteWorkers(const RemoteWorkersOptions& options,
                             const Clock* clock, Observers observers)
    : registry_(
          std::make_shared<Registry>(options, clock, std::move(observers))) {}

RemoteWorkers::~RemoteWorkers() { registry_->Shutdown(); }

grpc::Service* RemoteWorkers::service() { return registry_.get(); }
int RemoteWorkers::num_ready() const { return registry_->num_ready(); }
std::string RemoteWorkers::Progress() const { return registry_->Progress(); }
void RemoteWorkers::Tick() { registry_->Tick(); }
void RemoteWorkers::Drain() { registry_->Drain(); }
void RemoteWorkers::Shutdown() { registry_->Shutdown(); }

}  // namespace h2o
