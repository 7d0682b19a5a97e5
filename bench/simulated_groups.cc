// The simulated ranks' streams, their groups, and the timer of steps.
#include "bench/simulated_groups.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <queue>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/rank_info.h"
#include "model/step_codec.h"
#include "proto/channel.h"
#include "proto/grpc_status.h"
#include "proto/wire_id.h"
#include "proto/worker.grpc.pb.h"

namespace h2o {
namespace {

namespace wire = h2oserve::worker;

constexpr int32_t kStamps = static_cast<int32_t>(1 / kStampSeconds);

// What a group makes of its plans.  The ranks get equal plans, so one decodes
// them and all send the same result.
//
// Threads  any, with the lock of the group.
class PlanPlayer {
 public:
  explicit PlanPlayer(ModelConfig config) : config_(std::move(config)) {}

  absl::StatusOr<StepPlan> Decode(const std::string& bytes) const {
    return DecodePlan(bytes, config_);
  }

  // The result of `plan` whose every token is `token`.
  StepResult Play(const StepPlan& plan, int32_t token) {
    StepResult result;
    result.step = plan.step;
    for (uint64_t id : plan.retire) open_.erase(id);
    for (const SequenceSpec& spec : plan.admit) {
      open_[spec.id] = {spec.max_tokens, spec.generated, spec.forced};
    }
    for (const PrefillSlice& slice : plan.prefill) {
      if (slice.layer_end != config_.num_layers) continue;
      for (uint64_t id : slice.sequence_ids) Emit(id, token, &result);
    }
    for (uint64_t id : plan.decode) Emit(id, token, &result);
    result.checksum = plan.step;
    return result;
  }

 private:
  struct Open {
    int32_t max_tokens = 0;
    int32_t tokens = 0;
    std::vector<int32_t> forced;
  };

  void Emit(uint64_t id, int32_t token, StepResult* result) {
    const auto it = open_.find(id);
    if (it == open_.end() || it->second.tokens == it->second.max_tokens) return;
    Open& open = it->second;
    if (open.tokens < static_cast<int32_t>(open.forced.size())) {
      token = open.forced[open.tokens];
    }
    ++open.tokens;
    result->tokens.push_back({id, token,
                              open.tokens == open.max_tokens
                                  ? FinishReason::kLength
                                  : FinishReason::kNone});
  }

  const ModelConfig config_;
  std::map<uint64_t, Open> open_;
};

class Groups;

// One rank's stream.  Writes queue, because a stream takes one at a time.
class Rank final : public grpc::ClientBidiReactor<wire::WorkerMessage,
                                                  wire::CoordinatorMessage> {
 public:
  Rank(Groups* groups, const SimulatedGroupsOptions& options);

  void Start(const std::string& mesh_address);
  void Send(std::shared_ptr<const wire::WorkerMessage> message);
  void Cancel() { context_.TryCancel(); }
  // REQUIRES: Cancel.
  void Join();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  wire::WorkerMessage Hello(const std::string& mesh_address) const;

  Groups* const groups_;
  const std::string version_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<wire::Workers::Stub> stub_;
  grpc::ClientContext context_;
  wire::CoordinatorMessage incoming_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<const wire::WorkerMessage>> outgoing_;
  bool done_ = false;
};

struct Group {
  explicit Group(const ModelConfig& config) : player(config) {}

  std::vector<Rank*> ranks;  // by their numbers; null: not yet here
  PlanPlayer player;
  // Plans that ranks have, oldest first, and how many ranks have each.
  struct Pending {
    std::string bytes;
    int ranks = 0;
  };
  std::deque<Pending> plans;
  uint64_t first_plan = 1;    // the number of plans.front()
  std::vector<uint64_t> got;  // plans that each rank has
  bool runs = false;          // a step is under way
  double free_since = 0;      // the end of the last step
  bool was_busy = false;      // it had sequences then
};

class Groups final : public SimulatedGroups {
 public:
  Groups(const SimulatedGroupsOptions& options, ModelConfig config,
         const KvGeometry& geometry)
      : options_(options),
        config_(std::move(config)),
        geometry_(geometry),
        timer_([this] { RunTimer(); }) {}

  ~Groups() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    timer_.join();
    for (const auto& rank : ranks_) rank->Cancel();
    for (const auto& rank : ranks_) rank->Join();
  }

  void Dial() {
    for (int i = 0; i < options_.ranks; ++i) {
      ranks_.push_back(std::make_unique<Rank>(this, options_));
    }
    for (int i = 0; i < options_.ranks; ++i) {
      ranks_[i]->Start(absl::StrCat("127.0.0.1:", 20000 + i));
    }
  }

  Counters counters() const override {
    std::lock_guard lock(mutex_);
    return counters_;
  }

  void OnAssign(Rank* rank, const wire::Assign& assign) {
    {
      std::lock_guard lock(mutex_);
      Place& place = places_[rank];
      std::unique_ptr<Group>& group = groups_[assign.group()];
      if (group == nullptr) {
        group = std::make_unique<Group>(config_);
        group->ranks.resize(assign.size());
        group->got.resize(assign.size());
      }
      group->ranks[assign.rank()] = rank;
      place = {group.get(), assign.rank()};
    }
    auto ready = std::make_shared<wire::WorkerMessage>();
    ready->set_ready(Encode(InfoOf()));
    rank->Send(ready);
  }

  void OnPlan(Rank* rank, const std::string& bytes) {
    std::lock_guard lock(mutex_);
    const Place place = places_.at(rank);
    Group& group = *place.group;
    const uint64_t number = ++group.got[place.rank];
    const size_t index = number - group.first_plan;
    if (index == group.plans.size()) group.plans.push_back({bytes, 0});
    ++group.plans[index].ranks;
    BeginStep(&group);
  }

  void OnLost(const std::string& why) {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    if (counters_.lost++ == 0) counters_.why = why;
  }

 private:
  struct Place {
    Group* group = nullptr;
    int rank = 0;
  };
  struct Due {
    double when = 0;
    Group* group = nullptr;
    bool operator>(const Due& other) const { return when > other.when; }
  };

  RankInfo InfoOf() const {
    RankInfo info;
    info.config = config_;
    info.geometry = geometry_;
    info.num_slabs = options_.slabs_of_a_rank;
    info.fingerprint = "simulated";
    info.memory = {
        .weights = 1,
        .workspace = 1,
        .kv_pool = options_.slabs_of_a_rank * geometry_.SlabBytes()};
    return info;
  }

  // Begins the oldest step if all ranks have its plan.
  void BeginStep(Group* group) {
    if (group->runs || group->plans.empty() ||
        group->plans.front().ranks < static_cast<int>(group->ranks.size())) {
      return;
    }
    const double now = StampClock();
    if (group->was_busy) counters_.late_seconds += now - group->free_since;
    group->runs = true;
    due_.push({now + options_.step_seconds, group});
    if (due_.top().group == group) changed_.notify_one();
  }

  void EndStep(Group* group) {
    const absl::StatusOr<StepPlan> plan =
        group->player.Decode(group->plans.front().bytes);
    if (!plan.ok()) {
      if (counters_.lost++ == 0) counters_.why = plan.status().ToString();
      return;
    }
    StepResult result = group->player.Play(*plan, StampOf(StampClock()));
    result.decode_seconds = options_.step_seconds;
    // Whole prompts fit in a step.
    if (!plan->prefill.empty()) result.slowest_layer_seconds = 1e-6;
    auto message = std::make_shared<wire::WorkerMessage>();
    message->set_result(Encode(result));
    for (Rank* rank : group->ranks) rank->Send(message);
    ++counters_.steps;
    group->plans.pop_front();
    ++group->first_plan;
    group->runs = false;
    group->was_busy = !result.tokens.empty();
    group->free_since = StampClock();
    BeginStep(group);
  }

  void RunTimer() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (due_.empty()) {
        changed_.wait(lock);
        continue;
      }
      const double left = due_.top().when - StampClock();
      if (left > 0) {
        changed_.wait_for(lock, std::chrono::duration<double>(left));
        continue;
      }
      Group* const group = due_.top().group;
      due_.pop();
      EndStep(group);
    }
  }

  const SimulatedGroupsOptions options_;
  const ModelConfig config_;
  const KvGeometry geometry_;
  std::vector<std::unique_ptr<Rank>> ranks_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<uint64_t, std::unique_ptr<Group>> groups_;
  std::map<Rank*, Place> places_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  Counters counters_;
  bool stopping_ = false;

  std::thread timer_;  // last: it uses all of the above
};

Rank::Rank(Groups* groups, const SimulatedGroupsOptions& options)
    : groups_(groups),
      version_(options.version),
      channel_(WorkerChannel(options.coordinator, /*certificates=*/nullptr)),
      stub_(wire::Workers::NewStub(channel_)) {}

wire::WorkerMessage Rank::Hello(const std::string& mesh_address) const {
  wire::WorkerMessage message;
  wire::Hello* hello = message.mutable_hello();
  hello->set_version(version_);
  hello->set_wire(WireId());
  hello->set_build("simulated");
  hello->set_device("cpu");
  hello->set_mesh_address(mesh_address);
  hello->set_host_id("simulated");
  hello->set_pid(getpid());
  return message;
}

void Rank::Start(const std::string& mesh_address) {
  stub_->async()->Join(&context_, this);
  AddHold();  // writes are started by others
  Send(std::make_shared<wire::WorkerMessage>(Hello(mesh_address)));
  StartRead(&incoming_);
  StartCall();
}

void Rank::Send(std::shared_ptr<const wire::WorkerMessage> message) {
  std::lock_guard lock(mutex_);
  if (done_) return;
  outgoing_.push_back(std::move(message));
  if (outgoing_.size() == 1) StartWrite(outgoing_.front().get());
}

void Rank::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  outgoing_.pop_front();
  if (!ok) outgoing_.clear();
  if (!outgoing_.empty()) StartWrite(outgoing_.front().get());
}

void Rank::OnReadDone(bool ok) {
  if (!ok) return RemoveHold();
  switch (incoming_.message_case()) {
    case wire::CoordinatorMessage::kCall: {
      auto here = std::make_shared<wire::WorkerMessage>();
      here->mutable_here();
      Send(std::move(here));
      break;
    }
    case wire::CoordinatorMessage::kAssign:
      groups_->OnAssign(this, incoming_.assign());
      break;
    case wire::CoordinatorMessage::kPlan:
      groups_->OnPlan(this, incoming_.plan());
      break;
    default:
      break;
  }
  StartRead(&incoming_);
}

void Rank::OnDone(const grpc::Status& status) {
  groups_->OnLost(FromGrpc(status).ToString());
  std::lock_guard lock(mutex_);
  done_ = true;
  changed_.notify_all();
}

void Rank::Join() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return done_; });
}

}  // namespace

int32_t StampOf(double now) {
  return kFirstStamp +
         static_cast<int32_t>(std::fmod(now, 1.0) / kStampSeconds) % kStamps;
}

double SecondsSince(int32_t stamp, double now) {
  const double sent = (stamp - kFirstStamp) * kStampSeconds;
  const double seconds = std::fmod(now, 1.0) - sent;
  return seconds < 0 ? seconds + 1 : seconds;
}

double StampClock() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

absl::StatusOr<std::unique_ptr<SimulatedGroups>> SimulatedGroups::Start(
    const SimulatedGroupsOptions& options) {
  H2O_ASSIGN_OR_RETURN(ModelConfig config, ConfigOf(options.model));
  H2O_ASSIGN_OR_RETURN(
      const KvGeometry geometry,
      GeometryOf(config, WithFormats(options.model, config, /*gpu=*/false)));
  auto groups = std::make_unique<Groups>(options, std::move(config), geometry);
  groups->Dial();
  return groups;
}

}  // namespace h2o
