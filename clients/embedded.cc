#include "clients/embedded.h"

#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/monitor.h"
#include "base/status_macros.h"
#include "clients/forked_group.h"
#include "clients/progress_bar.h"

namespace h2o {
namespace {

// How often somebody looks whether ranks still live and who waits too long.
constexpr double kTickSeconds = 0.05;

template <class Group>
absl::StatusOr<std::unique_ptr<WorkerGroup>> Load(
    const LocalGroupOptions& options, MemoryPlan* memory_plan,
    std::vector<SumTimes>* sum_times) {
  ProgressBar bar("loading " + options.config.name);
  H2O_ASSIGN_OR_RETURN(
      std::unique_ptr<Group> group,
      Group::Create(options, [&bar](double f) { bar.Set(f); }));
  *memory_plan = group->memory_plan();
  if constexpr (std::is_same_v<Group, ForkedGroup>) {
    *sum_times = group->sum_times();
  }
  return group;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Embedded>> Embedded::Create(
    const EmbeddedOptions& options) {
  std::unique_ptr<Embedded> e(new Embedded());
  H2O_ASSIGN_OR_RETURN(e->config_, ConfigOf(options.model));
  if (!options.model.dummy) {
    H2O_ASSIGN_OR_RETURN(e->tokenizer_, Tokenizer::Load(options.model.model,
                                                        e->config_.vocab_size));
  }
  H2O_ASSIGN_OR_RETURN(e->engine_,
                       Engine::Create(options.engine, e->config_,
                                      e->tokenizer_.get(), &e->clock_));
  LocalGroupOptions group;
  group.config = e->config_;
  group.model = options.model;
  group.device = options.device;
  group.tp = options.tp;
  group.num_threads = options.num_threads;
  group.kv_pool_bytes = options.kv_pool_bytes;
  group.memory_share = options.memory_share;
  group.max_sequences = options.engine.max_sequences;
  group.cache_directory = options.cache_directory;
  const double start = e->clock_.Now();
  // Several GPUs want a process each, forked while this one has one thread: an
  // Engine makes its own with the group.
  H2O_ASSIGN_OR_RETURN(
      std::unique_ptr<WorkerGroup> workers,
      options.device.cuda && options.tp > 1
          ? Load<ForkedGroup>(group, &e->memory_plan_, &e->sum_times_)
          : Load<LocalGroup>(group, &e->memory_plan_, &e->sum_times_));
  e->load_seconds_ = e->clock_.Now() - start;
  e->group_info_ = workers->info();
  e->engine_->AddGroup(std::move(workers), nullptr);
  return e;
}

absl::Status Embedded::Run(
    std::vector<Request> requests,
    const std::function<void(int, StreamEvent)>& on_event) {
  Monitor monitor;
  absl::Status failure;
  size_t open = requests.size();
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto id =
        engine_->Submit(std::move(requests[i]), [&, i](StreamEvent event) {
          const bool done = event.done;
          const absl::Status status = event.status;
          on_event(static_cast<int>(i), std::move(event));
          if (!done) return;
          Monitor::Lock lock(monitor);
          failure.Update(status);
          --open;
        });
    if (id.ok()) continue;
    // A rank has died: neither this one nor those behind it begin.
    Monitor::Lock lock(monitor);
    failure.Update(id.status());
    open -= requests.size() - i;
    break;
  }
  const auto all_done = [&] {
    Monitor::Lock lock(monitor);
    return lock.AwaitFor(kTickSeconds, [&open] { return open == 0; });
  };
  while (!all_done()) engine_->Tick();
  return failure;
}

}  // namespace h2o
