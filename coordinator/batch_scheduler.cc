// Makes step plans: which sequences decode, and which layers of which prompts
// are prefilled.
#include "coordinator/batch_scheduler.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace h2o {

void BatchScheduler::Admit(SequenceSpec spec) {
  Progress progress;
  progress.prompt_tokens = static_cast<int32_t>(spec.prompt.size());
  progress.max_tokens = spec.max_tokens - spec.generated;
  progress.fork_of = spec.fork_of;
  H2O_CHECK(sequences_.emplace(spec.id, progress).second)
      << "sequence " << spec.id << " is admitted twice";
  if (spec.fork_of == 0) {
    to_prefill_.push_back(spec.id);
  } else {
    sequences_.at(spec.fork_of).forks.push_back(spec.id);
  }
  admitted_.push_back(std::move(spec));
}

void BatchScheduler::Retire(uint64_t id) {
  const auto it = sequences_.find(id);
  H2O_CHECK(it != sequences_.end()) << "sequence " << id << " is unknown";
  const Progress gone = std::move(it->second);
  sequences_.erase(it);
  if (gone.fork_of != 0) std::erase(sequences_.at(gone.fork_of).forks, id);
  if (!gone.forks.empty()) HandOver(id, gone.forks);
  std::erase(to_prefill_, id);
  std::erase(pack_.ids, id);
  if (pack_.ids.empty()) pack_ = {};
  std::erase(to_decode_, id);
  // The workers learn of a sequence from the plan that admits it.  A sequence
  // that ends before that plan is dropped and needs no retirement.
  const size_t before = admitted_.size();
  std::erase_if(admitted_, [id](const SequenceSpec& s) { return s.id == id; });
  if (admitted_.size() == before) retired_.push_back(id);
}

void BatchScheduler::HandOver(uint64_t id, const std::vector<uint64_t>& forks) {
  const uint64_t heir = *std::min_element(forks.begin(), forks.end());
  Progress& in_place = sequences_.at(heir);
  in_place.fork_of = 0;
  for (uint64_t fork : forks) {
    if (fork == heir) continue;
    sequences_.at(fork).fork_of = heir;
    in_place.forks.push_back(fork);
  }
  std::replace(to_prefill_.begin(), to_prefill_.end(), id, heir);
  std::replace(pack_.ids.begin(), pack_.ids.end(), id, heir);
  // What the workers have not heard of yet.
  for (SequenceSpec& spec : admitted_) {
    if (spec.fork_of == id) spec.fork_of = spec.id == heir ? 0 : heir;
  }
}

bool BatchScheduler::HasWork() const {
  return !retired_.empty() || !admitted_.empty() || !to_prefill_.empty() ||
         !pack_.ids.empty() || !to_decode_.empty();
}

StepPlan BatchScheduler::MakePlan() {
  StepPlan plan;
  plan.step = next_step_++;
  plan.retire = std::exchange(retired_, {});
  plan.admit = std::exchange(admitted_, {});
  PlanPrefill(!to_decode_.empty(), &plan);
  plan.decode = to_decode_;
  for (uint64_t id : plan.decode) ++sequences_.at(id).planned_tokens;
  std::erase_if(to_decode_, [this](uint64_t id) {
    const Progress& s = sequences_.at(id);
    return s.planned_tokens >= s.max_tokens;
  });
  return plan;
}

void BatchScheduler::PlanPrefill(bool anyone_decodes, StepPlan* plan) {
  double seconds_left =
      anyone_decodes ? stall_target_seconds_ : longest_step_seconds_;
  const bool sliced = std::isfinite(seconds_left);
  int32_t most_tokens = 0;
  while (!pack_.ids.empty() || !to_prefill_.empty()) {
    if (pack_.ids.empty()) FillPack();
    int layers = num_layers_ - pack_.planned_layers;
    if (sliced) {
      const double layer_seconds = EstimateLayerSeconds(pack_.tokens);
      const bool known = layer_seconds > 0;
      const double fit =
          known ? std::max(seconds_left, 0.0) / layer_seconds : 0;
      if (fit < layers) layers = static_cast<int>(fit);
      // At least one layer, even if it takes longer than the target: otherwise
      // the prefill would never advance.
      if (layers == 0 && plan->prefill.empty()) layers = 1;
      if (layers == 0) break;
      seconds_left -= layers * layer_seconds;
    }
    plan->prefill.push_back(
        {pack_.ids, pack_.planned_layers, pack_.planned_layers + layers});
    pack_.planned_layers += layers;
    most_tokens = std::max(most_tokens, pack_.tokens);
    if (pack_.planned_layers < num_layers_) break;
    EndPack();
    // The pack's sequences decode now; more prefill in this plan delays them.
    if (!anyone_decodes) break;
  }
  unanswered_.push_back(most_tokens);
}

void BatchScheduler::FillPack() {
  while (!to_prefill_.empty()) {
    const uint64_t id = to_prefill_.front();
    const int32_t tokens = sequences_.at(id).prompt_tokens;
    if (!pack_.ids.empty() && pack_.tokens + tokens > packed_tokens_) break;
    to_prefill_.pop_front();
    pack_.ids.push_back(id);
    pack_.tokens += tokens;
  }
}

void BatchScheduler::EndPack() {
  for (uint64_t id : pack_.ids) {
    Decode(id);
    for (uint64_t fork : std::exchange(sequences_.at(id).forks, {})) {
      sequences_.at(fork).fork_of = 0;
      Decode(fork);
    }
  }
  pack_ = {};
}

void BatchScheduler::Decode(uint64_t id) {
  Progress& s = sequences_.at(id);
  s.planned_tokens = 1;
  if (s.max_tokens > 1) to_decode_.push_back(id);
}

double BatchScheduler::EstimateLayerSeconds(int32_t tokens) const {
  if (layer_tokens_ == 0) return 0;
  // Time grows linearly with the prompt in linear layers, with its square in
  // attention.  This scales linearly to shorter prompts and with the square to
  // longer ones, so the estimate is rather too high than too low.
  const double ratio = static_cast<double>(tokens) / layer_tokens_;
  return layer_seconds_ * ratio * std::max(ratio, 1.0);
}

void BatchScheduler::Observe(const StepResult& result) {
  H2O_CHECK(!unanswered_.empty()) << "a result without a plan";
  const int32_t tokens = unanswered_.front();
  unanswered_.pop_front();
  if (tokens == 0 || result.slowest_layer_seconds <= 0) return;
  // A slower layer counts at once, a faster one slowly.
  const double expected = EstimateLayerSeconds(tokens);
  const double seen = result.slowest_layer_seconds;
  layer_seconds_ = seen >= expected ? seen : 0.75 * expected + 0.25 * seen;
  layer_tokens_ = tokens;
}

}  // namespace h2o
