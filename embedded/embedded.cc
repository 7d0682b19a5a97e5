// Loads a model for one process and runs requests on it.
#include "embedded/embedded.h"

#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/monitor.h"
#include "base/status_macros.h"
#include "embedded/forked_group.h"
#include "embedded/local_group.h"

namespace h2o {
namespace {

// How often the engine checks for lost ranks and for requests that waited too
// long.
constexpr double kTickSeconds = 0.05;

// Each of several GPUs needs a process of its own.
absl::StatusOr<std::unique_ptr<WorkerGroup>> LoadGroup(
    const ShardOptions& shard, std::function<void(double)> progress) {
  if (shard.device.cuda && shard.size > 1) {
    return ForkedGroup::Create(shard, std::move(progress));
  }
  return LocalGroup::Create(shard, std::move(progress));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Embedded>> Embedded::Create(
    const EmbeddedOptions& options,
    std::function<void(double fraction)> progress) {
  std::unique_ptr<Embedded> e(new Embedded());
  H2O_ASSIGN_OR_RETURN(e->config_, ConfigOf(options.shard.model));
  // Prompts of token ids need no tokenizer.
  auto tokenizer =
      Tokenizer::Load(options.shard.model.model, e->config_.vocab_size);
  if (tokenizer.ok()) {
    e->tokenizer_ = *std::move(tokenizer);
  } else if (!absl::IsNotFound(tokenizer.status())) {
    return tokenizer.status();
  }
  H2O_ASSIGN_OR_RETURN(e->engine_,
                       Engine::Create(options.engine, e->config_,
                                      e->tokenizer_.get(), &e->clock_));
  ShardOptions shard = options.shard;
  shard.config = e->config_;
  shard.max_sequences = options.engine.max_sequences;
  shard.fingerprint = false;
  const double start = e->clock_.Now();
  // Ranks are forked while this process has one thread: an Engine makes its own
  // with the group.
  H2O_ASSIGN_OR_RETURN(std::unique_ptr<WorkerGroup> workers,
                       LoadGroup(shard, std::move(progress)));
  e->load_seconds_ = e->clock_.Now() - start;
  e->group_info_ = workers->info();
  e->engine_->AddGroup(std::move(workers));
  return e;
}

absl::Status Embedded::Run(
    std::vector<Request> requests,
    const std::function<void(int, StreamEvent)>& on_event) {
  std::mutex one_at_a_time;  // events of several requests may come at once
  Monitor monitor;
  absl::Status failure;
  int64_t open = 0;  // choices
  for (const Request& request : requests) open += request.n;
  for (size_t i = 0; i < requests.size(); ++i) {
    const int64_t choices = requests[i].n;
    const auto id =
        engine_->Submit(std::move(requests[i]), [&, i](StreamEvent event) {
          const bool done = event.done;
          const absl::Status status = event.status;
          {
            std::lock_guard lock(one_at_a_time);
            on_event(static_cast<int>(i), std::move(event));
          }
          if (!done) return;
          Monitor::Lock lock(monitor);
          failure.Update(status);
          --open;
        });
    if (id.ok()) continue;
    // A rank was lost: this request and those after it will not run.
    Monitor::Lock lock(monitor);
    failure.Update(id.status());
    open -= choices;
    for (++i; i < requests.size(); ++i) open -= requests[i].n;
  }
  const auto all_done = [&] {
    Monitor::Lock lock(monitor);
    return lock.AwaitFor(kTickSeconds, [&open] { return open == 0; });
  };
  while (!all_done()) engine_->Tick();
  return failure;
}

}  // namespace h2o
