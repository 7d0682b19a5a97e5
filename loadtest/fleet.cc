// Runs a load from this process.
#include "loadtest/fleet.h"

#include <chrono>
#include <future>
#include <utility>

#include "base/status_macros.h"

namespace h2o {
namespace {

constexpr auto kGlance = std::chrono::milliseconds(100);

class LocalFleet final : public Fleet {
 public:
  LocalFleet(Targets* targets, Pace* pace) : targets_(targets), pace_(pace) {}

  absl::StatusOr<RunResult> Run(const LoadSpec& spec,
                                const LookAtRun& look) override {
    H2O_ASSIGN_OR_RETURN(const std::vector<Target*> targets,
                         targets_->Of(spec.targets));
    RunResult result;
    const LoadProgress progress = RunPart(
        spec, {}, targets, pace_, pace_->Now(),
        [&](RequestRecord r) { result.records.push_back(std::move(r)); }, look);
    result.clocks.push_back({.name = "here", .waited = progress.waited});
    return result;
  }

 private:
  Targets* const targets_;
  Pace* const pace_;
};

}  // namespace

absl::StatusOr<std::vector<Target*>> Targets::Of(
    const std::vector<std::string>& names) {
  std::vector<Target*> targets;
  for (const std::string& name : names) {
    std::unique_ptr<Target>& target = made_[name];
    if (target == nullptr) {
      H2O_ASSIGN_OR_RETURN(target, make_(name));
    }
    targets.push_back(target.get());
  }
  return targets;
}

LoadProgress RunPart(const LoadSpec& spec, LoadPart part,
                     const std::vector<Target*>& targets, Pace* pace,
                     double start,
                     const std::function<void(RequestRecord)>& on_record,
                     const LookAtRun& look) {
  LoadRun run(&spec, part, targets, pace, on_record);
  const std::future<void> sender =
      std::async(std::launch::async, [&] { run.Run(start); });
  while (sender.wait_for(kGlance) != std::future_status::ready) {
    if (!look(run.progress(), pace->Now() - start)) run.Stop();
  }
  return run.progress();
}

std::unique_ptr<Fleet> NewLocalFleet(Targets* targets, Pace* pace) {
  return std::make_unique<LocalFleet>(targets, pace);
}

}  // namespace h2o
