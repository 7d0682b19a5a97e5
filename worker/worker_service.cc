// The stream to the coordinator, and what is done at each of its messages.
#include "worker/worker_service.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/running_clock.h"
#include "base/status_macros.h"
#include "model/step_codec.h"
#include "proto/channel.h"
#include "proto/grpc_status.h"
#include "proto/stream_end.h"
#include "proto/wire_id.h"
#include "proto/worker.grpc.pb.h"

namespace h2o {
namespace {

namespace wire = h2oserve::worker;
using SteadyTime = std::chrono::steady_clock::time_point;

// How often a wait checks whether this worker was told to leave.
constexpr auto kGlance = std::chrono::milliseconds(100);
constexpr double kGlanceSeconds = 0.1;

// A shard that is busy for longer after the stream has ended is stuck.
constexpr auto kStuck = std::chrono::seconds(3);

constexpr auto kProgressInterval = std::chrono::milliseconds(250);

// The stream to the coordinator: reads into a queue in a thread of its own,
// writes from the caller's.
//
// Threads  one owner; the reader is its own.
class CoordinatorStream {
 public:
  CoordinatorStream(wire::Workers::Stub* stub,
                    std::function<void(const WorkerVerdict&)> on_stuck)
      : on_stuck_(std::move(on_stuck)),
        stream_(stub->Join(&context_)),
        reader_([this] { Read(); }) {}

  ~CoordinatorStream() {
    context_.TryCancel();
    End();
  }

  // Returns false when the stream has ended.
  bool Write(const wire::WorkerMessage& message) {
    std::lock_guard lock(writing_);
    return stream_->Write(message);
  }

  // The next message; nothing after `seconds` without one, or at the end.
  std::optional<wire::CoordinatorMessage> Next(double seconds) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                      [&] { return ended_ || !incoming_.empty(); });
    if (incoming_.empty()) return std::nullopt;
    wire::CoordinatorMessage message = std::move(incoming_.front());
    incoming_.pop_front();
    return message;
  }

  bool ended() const {
    std::lock_guard lock(mutex_);
    return ended_ && incoming_.empty();
  }

  // Why the stream ended.  Waits until it has.
  WorkerVerdict End() {
    {
      std::lock_guard lock(mutex_);
      joining_ = true;
      changed_.notify_all();
    }
    if (reader_.joinable()) reader_.join();
    return verdict_;
  }

 private:
  // Of the ended stream.
  WorkerVerdict Finish() {
    absl::Status status = FromGrpc(stream_->Finish());
    const auto& trailing = context_.GetServerTrailingMetadata();
    const auto said = trailing.find(kStreamEndKey);
    WorkerEnd end = WorkerEnd::kFault;
    if (status.ok() ||
        (said != trailing.end() && said->second == kStreamEndStops)) {
      end = WorkerEnd::kLetGo;
    } else if (said == trailing.end()) {
      end = WorkerEnd::kCoordinatorLost;
    } else if (said->second == kStreamEndRefused) {
      end = WorkerEnd::kRefused;
    } else if (said->second == kStreamEndDrained) {
      end = WorkerEnd::kDrained;
    }
    return {end, heard_, std::move(status)};
  }

  // Whatever the owner of this stream is busy with.
  void SayHere() {
    wire::WorkerMessage message;
    message.mutable_here();
    Write(message);
  }

  void Read() {
    wire::CoordinatorMessage message;
    while (stream_->Read(&message)) {
      heard_ = true;
      if (message.has_call()) {
        SayHere();
        continue;
      }
      std::lock_guard lock(mutex_);
      incoming_.push_back(std::move(message));
      changed_.notify_all();
    }
    verdict_ = Finish();
    std::unique_lock lock(mutex_);
    ended_ = true;
    changed_.notify_all();
    const bool noticed =
        changed_.wait_for(lock, kStuck, [&] { return joining_; });
    if (!noticed && on_stuck_) on_stuck_(verdict_);
  }

  const std::function<void(const WorkerVerdict&)> on_stuck_;
  grpc::ClientContext context_;
  const std::unique_ptr<
      grpc::ClientReaderWriter<wire::WorkerMessage, wire::CoordinatorMessage>>
      stream_;
  bool heard_ = false;     // the reader's
  WorkerVerdict verdict_;  // likewise; read after it has been joined

  std::mutex writing_;  // held for one write

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<wire::CoordinatorMessage> incoming_;
  bool ended_ = false;
  bool joining_ = false;

  std::thread reader_;  // last: it uses all of the above
};

// What stands between, as gRPC tells it to a call.
std::string WhyNot(wire::Workers::Stub* stub) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(2));
  auto stream = stub->Join(&context);
  stream->WritesDone();
  return stream->Finish().error_message();
}

// False if told to leave, or the time is up.
bool Connect(grpc::Channel* channel, double timeout_seconds,
             const std::atomic<bool>& leave) {
  const SteadyClock steady;
  const RunningClock clock(&steady);
  const double deadline = clock.Now() + timeout_seconds;
  while (!leave && clock.Now() < deadline) {
    if (channel->WaitForConnected(std::chrono::system_clock::now() + kGlance)) {
      return true;
    }
  }
  return false;
}

wire::WorkerMessage HelloMessage(const WorkerServiceOptions& options,
                                 const std::string& mesh_address) {
  wire::WorkerMessage message;
  wire::Hello* hello = message.mutable_hello();
  hello->set_version(options.version);
  hello->set_wire(WireId());
  hello->set_build(options.build);
  hello->set_device(options.device);
  hello->set_mesh_address(mesh_address);
  hello->set_host_id(options.host_id);
  hello->set_pid(getpid());
  hello->set_model_path(options.model_path);
  if (options.config) hello->set_config(Encode(*options.config));
  return message;
}

absl::StatusOr<Assignment> AssignmentOf(const wire::Assign& message) {
  if (message.size() < 1 || message.rank() < 0 ||
      message.rank() >= message.size() ||
      message.mesh_addresses_size() != message.size() ||
      message.host_ids_size() != message.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("assigned rank ", message.rank(), " of ", message.size(),
                     " with ", message.mesh_addresses_size(), " addresses and ",
                     message.host_ids_size(), " host ids; they must agree"));
  }
  Assignment assignment;
  assignment.group = static_cast<int>(message.group());
  assignment.rank = message.rank();
  assignment.size = message.size();
  H2O_ASSIGN_OR_RETURN(assignment.model, DecodeModelSpec(message.model()));
  assignment.mesh_addresses.assign(message.mesh_addresses().begin(),
                                   message.mesh_addresses().end());
  assignment.host_ids.assign(message.host_ids().begin(),
                             message.host_ids().end());
  assignment.nonce = message.nonce();
  assignment.mesh_secret = message.mesh_secret();
  assignment.connect_timeout_seconds = message.connect_timeout_seconds();
  assignment.operation_timeout_seconds = message.operation_timeout_seconds();
  assignment.max_sequences = message.max_sequences();
  return assignment;
}

// One worker's life on one stream.
class Session {
 public:
  Session(CoordinatorStream* stream, const LoadShard& load,
          WorkerControl* control)
      : stream_(stream), load_(load), control_(control) {}

  // This worker's failure; OK when the stream ended or it was let go.
  absl::Status Serve() {
    while (!stream_->ended()) {
      if (shard_ && shard_->ShouldCollect()) {
        const absl::Status status = Answer();
        if (!status.ok()) return Fail(status);
        continue;
      }
      const bool runs = shard_ && shard_->in_flight() > 0;
      const std::optional<wire::CoordinatorMessage> message =
          stream_->Next(runs ? PlanRunner::kGlanceSeconds : kGlanceSeconds);
      SayIfLeaving();
      if (!message) continue;
      absl::Status status;
      switch (message->message_case()) {
        case wire::CoordinatorMessage::kAssign:
          status = Load(message->assign());
          break;
        case wire::CoordinatorMessage::kPlan:
          status = Step(message->plan());
          break;
        case wire::CoordinatorMessage::kShutdown:
          return absl::OkStatus();
        default:
          status = absl::InvalidArgumentError(
              "the coordinator sent an empty message");
      }
      if (!status.ok()) return Fail(status);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Load(const wire::Assign& message) {
    if (shard_) {
      return absl::FailedPreconditionError("assigned a second time");
    }
    H2O_ASSIGN_OR_RETURN(const Assignment assignment, AssignmentOf(message));
    H2O_LOG() << "is rank " << assignment.rank << " of " << assignment.size
              << " in group " << assignment.group << "; loads "
              << assignment.model.model;
    control_->stage = WorkerStage::kLoading;
    SteadyTime told;
    H2O_ASSIGN_OR_RETURN(shard_, load_(assignment, [&](double fraction) {
                           const SteadyTime now =
                               std::chrono::steady_clock::now();
                           if (now - told < kProgressInterval) return;
                           told = now;
                           wire::WorkerMessage progress;
                           progress.mutable_progress()->set_fraction(
                               static_cast<float>(fraction));
                           stream_->Write(progress);
                         }));
    control_->stage = WorkerStage::kServing;
    wire::WorkerMessage ready;
    ready.set_ready(Encode(shard_->info()));
    stream_->Write(ready);
    return absl::OkStatus();
  }

  absl::Status Step(const std::string& bytes) {
    if (!shard_) {
      return absl::FailedPreconditionError("a plan came before an assignment");
    }
    absl::StatusOr<StepPlan> plan = DecodePlan(bytes, shard_->info().config);
    if (!plan.ok()) {
      return absl::Status(
          plan.status().code(),
          absl::StrCat("a malformed plan: ", plan.status().message()));
    }
    return shard_->Launch(*plan);
  }

  // Sends the result of the oldest plan.
  absl::Status Answer() {
    H2O_ASSIGN_OR_RETURN(const StepResult result, shard_->Collect());
    wire::WorkerMessage answer;
    answer.set_result(Encode(result));
    if (answer.ByteSizeLong() > kMaxMessageBytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the result of step ", result.step, " has ", answer.ByteSizeLong(),
          " bytes; a message may have ", kMaxMessageBytes));
    }
    stream_->Write(answer);  // a broken stream ends the loop
    return absl::OkStatus();
  }

  // Tells the coordinator and waits until it has ended the stream.  If this
  // worker left at once, the coordinator could not tell whether it or the rank
  // that it complains about failed.
  absl::Status Fail(const absl::Status& status) {
    wire::WorkerMessage message;
    message.mutable_failed()->set_code(static_cast<int>(status.code()));
    message.mutable_failed()->set_text(std::string(status.message()));
    stream_->Write(message);
    while (!stream_->ended()) stream_->Next(kGlanceSeconds);
    return status;
  }

  void SayIfLeaving() {
    if (!control_->leave || said_leaving_) return;
    said_leaving_ = true;
    wire::WorkerMessage message;
    message.mutable_leaving();
    stream_->Write(message);
  }

  CoordinatorStream* const stream_;
  const LoadShard& load_;
  WorkerControl* const control_;
  std::shared_ptr<PlanRunner> shard_;
  bool said_leaving_ = false;
};

}  // namespace

WorkerVerdict ServeWorker(const WorkerServiceOptions& options,
                          const LoadShard& load, WorkerControl* control) {
  const std::shared_ptr<grpc::Channel> channel =
      WorkerChannel(options.coordinator, options.certificates);
  const std::unique_ptr<wire::Workers::Stub> stub =
      wire::Workers::NewStub(channel);
  if (!Connect(channel.get(), options.connect_timeout_seconds,
               control->leave)) {
    if (control->leave) return {.end = WorkerEnd::kLeft};
    return {WorkerEnd::kCoordinatorLost, false,
            absl::UnavailableError(absl::StrCat(
                "no coordinator answers at ", options.coordinator, " within ",
                options.connect_timeout_seconds, " s: ", WhyNot(stub.get())))};
  }
  const absl::StatusOr<std::string> mesh_address = options.mesh_address();
  if (!mesh_address.ok()) {
    return {WorkerEnd::kFault, false, mesh_address.status()};
  }
  control->stage = WorkerStage::kWaiting;
  CoordinatorStream stream(stub.get(), options.on_stuck);
  stream.Write(HelloMessage(options, *mesh_address));
  absl::Status own = Session(&stream, load, control).Serve();
  control->stage = WorkerStage::kDialing;
  WorkerVerdict verdict = stream.End();
  // If this worker only complained about another rank, the coordinator's reason
  // is the better one.
  if (!own.ok() && (!absl::IsUnavailable(own) || verdict.status.ok())) {
    return {WorkerEnd::kFault, verdict.joined, own};
  }
  if (control->leave) return {.end = WorkerEnd::kLeft};
  if (verdict.status.ok()) return verdict;
  return {verdict.end, verdict.joined,
          absl::Status(verdict.status.code(),
                       absl::StrCat("coordinator ", options.coordinator, ": ",
                                    verdict.status.message()))};
}

}  // namespace h2o
