// Takes workers in, forms groups of them and hands messages to their group.
#include "coordinator/worker_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/cut_text.h"
#include "base/status_macros.h"
#include "coordinator/member_choice.h"
#include "model/step_check.h"
#include "model/step_codec.h"
#include "proto/wire_id.h"

namespace h2o {
namespace {

namespace wire = h2oserve::worker;

// A stream that does not introduce itself is closed after this long.
constexpr double kHelloSeconds = 10;

// Workers that wait are asked as often whether they are there, and one whose
// last answer is older than this is not made a rank.
constexpr double kCallSeconds = 1;
constexpr double kHereSeconds = 3;

// Streams that have not introduced themselves.  Every message looks its stream
// up, so there must not be many.
constexpr int kMaxStrangers = 64;

// Most bytes of a Hello.  The config of a large model has a few hundred.
constexpr size_t kMaxHelloBytes = 64 << 10;

// Most bytes of why a rank failed.
constexpr size_t kMaxFailureText = 1024;

// Whether `text` fits a line of a log.
bool IsPlainWord(const std::string& text) {
  return !text.empty() && text.size() < 256 &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return c > ' ' && c <= '~'; });
}

std::string NameOf(const wire::Hello& hello) {
  return absl::StrCat("worker ", CutText(hello.mesh_address()), " (",
                      CutText(hello.device()), ", pid ", hello.pid(), ")");
}

absl::Status FailureOf(const wire::Failed& failed) {
  return absl::Status(
      static_cast<absl::StatusCode>(std::clamp(failed.code(), 1, 16)),
      CutText(failed.text(), kMaxFailureText));
}

}  // namespace

WorkerRegistry::WorkerRegistry(const RemoteWorkersOptions& options,
                               const Clock* clock,
                               RemoteWorkers::Observers observers)
    : options_(options),
      clock_(clock),
      observers_(std::move(observers)),
      wire_id_(WireId()),
      refusals_(clock) {}

// ---- Messages

grpc::ServerBidiReactor<wire::WorkerMessage, wire::CoordinatorMessage>*
WorkerRegistry::Join(grpc::CallbackServerContext* context) {
  const absl::Status may =
      observers_.may_join ? observers_.may_join(*context) : absl::OkStatus();
  std::shared_ptr<WorkerStream> stream =
      WorkerStream::Open(context, shared_from_this());
  if (!may.ok()) {
    stream->Close(may, kStreamEndRefused);
    return stream.get();
  }
  std::lock_guard lock(mutex_);
  CloseOldStrangers();
  workers_.push_back({.stream = stream, .opened = clock_->Now()});
  return stream.get();
}

void WorkerRegistry::CloseOldStrangers() {
  const auto is_stranger = [](const Worker& worker) { return !worker.hello; };
  while (std::count_if(workers_.begin(), workers_.end(), is_stranger) >=
         kMaxStrangers) {
    // The oldest, because a worker says Hello at once.
    const auto oldest =
        std::find_if(workers_.begin(), workers_.end(), is_stranger);
    oldest->stream->Close(
        absl::ResourceExhaustedError("too many streams without a Hello"));
    workers_.erase(oldest);
  }
}

void WorkerRegistry::OnMessage(WorkerStream* stream,
                               const wire::WorkerMessage& message) {
  if (observers_.on_message) {
    observers_.on_message(stream->peer(),
                          static_cast<int64_t>(message.ByteSizeLong()));
  }
  if (message.has_hello()) return OnHello(stream, message.hello());
  if (message.has_here()) return OnHere(stream);
  std::shared_ptr<RemoteRanks> ranks;
  int rank = 0;
  {
    std::lock_guard lock(mutex_);
    if (const auto worker = Find(stream); worker != workers_.end()) {
      ranks = worker->ranks;
      rank = worker->rank;
    }
  }
  if (message.has_leaving() && ranks == nullptr) {
    return stream->Close(absl::OkStatus());
  }
  if (ranks == nullptr) {
    return stream->Close(absl::FailedPreconditionError(
        "the first message of a worker must be Hello, the next follows its "
        "assignment"));
  }
  switch (message.message_case()) {
    case wire::WorkerMessage::kProgress:
      return ranks->OnProgress(rank, message.progress().fraction());
    case wire::WorkerMessage::kReady:
      return ranks->OnReady(rank, message.ready());
    case wire::WorkerMessage::kResult:
      return ranks->OnResult(rank, message.result());
    case wire::WorkerMessage::kLeaving:
      return ranks->OnLeaving(rank);
    case wire::WorkerMessage::kFailed:
      return ranks->OnFailed(rank, FailureOf(message.failed()));
    default:
      return stream->Close(absl::InvalidArgumentError("an empty message"));
  }
}

void WorkerRegistry::OnHello(WorkerStream* stream, const wire::Hello& hello) {
  std::lock_guard lock(mutex_);
  const auto worker = Find(stream);
  if (worker == workers_.end()) return;  // it has been closed
  if (shut_down_) {
    return stream->Close(absl::UnavailableError("the coordinator shuts down"),
                         kStreamEndStops);
  }
  const absl::Status build = CheckBuild(hello);
  if (!build.ok()) {
    return Refuse(&*worker, NameOf(hello), build,
                  absl::FailedPreconditionError(
                      "another version or build than the coordinator's, whose "
                      "log has the difference"));
  }
  const absl::Status status =
      worker->hello ? absl::FailedPreconditionError("a second Hello")
                    : CheckHello(hello);
  if (!status.ok()) return Refuse(&*worker, NameOf(hello), status, status);
  worker->hello = hello;
  std::rotate(worker, worker + 1, workers_.end());
  Call(&workers_.back());
}

void WorkerRegistry::OnHere(WorkerStream* stream) {
  std::lock_guard lock(mutex_);
  const auto worker = Find(stream);
  if (worker == workers_.end() || !worker->hello) return;
  if (worker->ranks != nullptr) return worker->ranks->OnHere(worker->rank);
  if (worker->heard == 0) H2O_LOG() << NameOf(*worker->hello) << " dialed in";
  worker->heard = clock_->Now();
  FormGroups();
}

void WorkerRegistry::Call(Worker* worker) {
  static const auto call = [] {
    auto message = std::make_shared<wire::CoordinatorMessage>();
    message->mutable_call();
    return message;
  }();
  worker->called = clock_->Now();
  worker->stream->Send(call);
}

bool WorkerRegistry::IsHere(const Worker& worker) const {
  return worker.waits() && worker.heard > 0 &&
         clock_->Now() - worker.heard < kHereSeconds;
}

void WorkerRegistry::LookAt(Worker* worker) {
  const double now = clock_->Now();
  if (worker->refused) return;
  if (worker->ranks != nullptr) {
    // Its group looks at the answers.
    if (!worker->ranks->ready() && now - worker->called > kCallSeconds) {
      Call(worker);
    }
    return;
  }
  if (!worker->hello) {
    if (now - worker->opened < kHelloSeconds) return;
    const absl::Status why = absl::DeadlineExceededError(
        absl::StrCat("no Hello within ", kHelloSeconds, " s"));
    return Refuse(worker, "a stranger", why, why);
  }
  const double patience = options_.formation_timeout_seconds;
  if (now - std::max(worker->opened, worker->heard) > patience) {
    const absl::Status why = absl::DeadlineExceededError(
        absl::StrCat("it did not answer for ", patience, " s"));
    return Refuse(worker, NameOf(*worker->hello), why, why);
  }
  if (now - worker->called > kCallSeconds) Call(worker);
}

void WorkerRegistry::Refuse(Worker* worker, const std::string& name,
                            const absl::Status& why, const absl::Status& told) {
  worker->refused = true;
  if (observers_.on_refused) observers_.on_refused();
  refusals_.Add(
      LogLevel::kWarning, "",
      absl::StrCat(name, " is refused: ",
                   CutText(std::string(why.message()), kMaxFailureText)));
  worker->stream->Close(told, kStreamEndRefused);
}

void WorkerRegistry::OnEnd(WorkerStream* stream) {
  Worker left;
  {
    std::lock_guard lock(mutex_);
    const auto worker = Find(stream);
    if (worker == workers_.end()) return;
    left = std::move(*worker);
    workers_.erase(worker);
    if (left.waits() && !shut_down_) {
      H2O_LOG(LogLevel::kWarning) << "worker " << left.hello->mesh_address()
                                  << " left before it had a group";
    }
  }
  if (left.ranks != nullptr) left.ranks->OnEnd(left.rank);
  stream->Close(absl::CancelledError("the worker left"));
}

// ---- Groups

absl::Status WorkerRegistry::CheckFingerprint(const std::string& fingerprint) {
  std::lock_guard lock(mutex_);
  for (const auto& group : groups_) {
    if (group->ready() && group->fingerprint() != fingerprint) {
      return absl::FailedPreconditionError(
          absl::StrCat("another model: its fingerprint is ", fingerprint,
                       ", that of the running group ", group->group(), " is ",
                       group->fingerprint()));
    }
  }
  return absl::OkStatus();
}

void WorkerRegistry::OnRanksReady(std::shared_ptr<RemoteRanks> ranks) {
  observers_.on_ready(GroupOf(std::move(ranks)));
}

void WorkerRegistry::OnRanksOver(std::shared_ptr<RemoteRanks> ranks,
                                 const absl::Status& reason,
                                 const std::optional<Fault>& fault) {
  H2O_LOG(LogLevel::kWarning)
      << "group " << ranks->group() << " is over: " << reason.message()
      << (fault ? absl::StrCat(" (fault ", Name(fault->kind), ", rank ",
                               fault->rank, ")")
                : "");
  Forget(ranks);
  observers_.on_over(
      {ranks->group(), ranks->pids(), reason, fault, ranks->was_ready()});
}

void WorkerRegistry::OnRanksLeft(std::shared_ptr<RemoteRanks> ranks,
                                 const absl::Status& reason) {
  H2O_LOG() << "group " << ranks->group()
            << " has drained: " << reason.message();
  if (observers_.on_left) {
    observers_.on_left({.group = ranks->group(),
                        .pids = ranks->pids(),
                        .reason = reason,
                        .was_ready = ranks->was_ready()});
  }
  Forget(ranks);
}

void WorkerRegistry::Forget(const std::shared_ptr<RemoteRanks>& ranks) {
  std::lock_guard lock(mutex_);
  std::erase(groups_, ranks);
  FormGroups();
}

void WorkerRegistry::FormGroups() {
  while (!shut_down_ && static_cast<int>(groups_.size()) < options_.groups) {
    const std::vector<Worker*> members = TakeMembers();
    if (members.empty()) return;
    std::vector<RemoteRank> ranks;
    for (const Worker* member : members) {
      ranks.push_back({member->stream, *member->hello});
    }
    auto group = std::make_shared<RemoteRanks>(
        FreeNumber(), options_, clock_, shared_from_this(), std::move(ranks));
    for (size_t r = 0; r < members.size(); ++r) {
      members[r]->ranks = group;
      members[r]->rank = static_cast<int>(r);
    }
    groups_.push_back(group);
    group->SendAssignments();
  }
}

std::vector<WorkerRegistry::Worker*> WorkerRegistry::TakeMembers() {
  std::vector<Worker*> waiting;
  std::vector<WaitingWorker> known;
  for (Worker& worker : workers_) {
    if (!IsHere(worker)) continue;
    waiting.push_back(&worker);
    known.push_back({worker.hello->device(), worker.hello->host_id()});
  }
  std::vector<Worker*> members;
  for (int i : ChooseMembers(known, options_.tp)) {
    members.push_back(waiting[i]);
  }
  return members;
}

int WorkerRegistry::FreeNumber() const {
  int number = 0;
  const auto taken = [&](const auto& group) {
    return group->group() == number;
  };
  while (std::any_of(groups_.begin(), groups_.end(), taken)) ++number;
  return number;
}

// ---- Workers

std::vector<WorkerRegistry::Worker>::iterator WorkerRegistry::Find(
    const WorkerStream* stream) {
  return std::find_if(
      workers_.begin(), workers_.end(),
      [&](const Worker& worker) { return worker.stream.get() == stream; });
}

absl::Status WorkerRegistry::CheckBuild(const wire::Hello& hello) const {
  if (hello.version() != options_.version) {
    return absl::FailedPreconditionError(absl::StrCat(
        "another version: the worker is ", CutText(hello.version()),
        ", the coordinator is ", options_.version));
  }
  if (hello.wire() != wire_id_) {
    return absl::FailedPreconditionError(
        absl::StrCat("another build: the worker speaks wire ",
                     CutText(hello.wire()), ", the coordinator ", wire_id_));
  }
  const std::string build = BuildOfOthers();
  if (!build.empty() && hello.build() != build) {
    return absl::FailedPreconditionError(
        absl::StrCat("another build: this worker is ", CutText(hello.build()),
                     ", those already here are ", build));
  }
  return absl::OkStatus();
}

absl::Status WorkerRegistry::CheckHello(const wire::Hello& hello) const {
  if (hello.ByteSizeLong() > kMaxHelloBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a Hello of ", hello.ByteSizeLong(),
                     " bytes; it must have at most ", kMaxHelloBytes));
  }
  if (!hello.config().empty()) {
    absl::StatusOr<ModelConfig> config = DecodeModelConfig(hello.config());
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

std::string WorkerRegistry::BuildOfOthers() const {
  // The ranks of a lost group are on their way out.
  for (const Worker& worker : workers_) {
    const bool at_work = std::find(groups_.begin(), groups_.end(),
                                   worker.ranks) != groups_.end();
    if (worker.waits() || at_work) return worker.hello->build();
  }
  return "";
}

// ---- RemoteWorkers'

int WorkerRegistry::num_ready() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(
      std::count_if(groups_.begin(), groups_.end(),
                    [](const auto& group) { return group->ready(); }));
}

std::string WorkerRegistry::Progress() const {
  std::lock_guard lock(mutex_);
  if (!groups_.empty()) return "the workers are loading";
  const auto waiting =
      std::count_if(workers_.begin(), workers_.end(),
                    [&](const Worker& worker) { return IsHere(worker); });
  return absl::StrCat(waiting, " of ", options_.tp, " workers have dialed in");
}

void WorkerRegistry::Tick() {
  std::vector<std::shared_ptr<RemoteRanks>> groups;
  bool draining = false;
  {
    std::lock_guard lock(mutex_);
    groups = groups_;
    draining = draining_;
    for (Worker& worker : workers_) LookAt(&worker);
  }
  for (const auto& group : groups) group->Tick(draining);
}

void WorkerRegistry::Drain() {
  std::lock_guard lock(mutex_);
  draining_ = true;
}

absl::Status WorkerRegistry::DrainGroup(int number) {
  std::lock_guard lock(mutex_);
  std::vector<int> numbers;
  for (const auto& group : groups_) {
    numbers.push_back(group->group());
    if (group->group() != number) continue;
    group->Leave(absl::UnavailableError(
        absl::StrCat("group ", number, " was told to drain")));
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      numbers.empty()
          ? absl::StrCat("there is no group ", number, ", and no other")
          : absl::StrCat("there is no group ", number, "; there is ",
                         absl::StrJoin(numbers, ", ")));
}

void WorkerRegistry::Shutdown() {
  std::lock_guard lock(mutex_);
  shut_down_ = true;
  auto bye = std::make_shared<wire::CoordinatorMessage>();
  bye->mutable_shutdown();
  for (const Worker& worker : workers_) {
    if (!worker.waits()) continue;
    worker.stream->Send(bye);
    worker.stream->Close(absl::OkStatus());
  }
  for (const auto& group : groups_) group->Dismiss();
  groups_.clear();
}

}  // namespace h2o
