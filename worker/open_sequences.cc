// Questions about open sequences that more than one part of a step asks.
#include "worker/open_sequences.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/logit_changes.h"
#include "kv/kv_geometry.h"

namespace h2o {

bool OpenSequence::KeepsScores() const {
  const std::vector<KvSlots>& slots = spec.policy.slots;
  return std::any_of(slots.begin(), slots.end(), [](const KvSlots& s) {
    return s.score_rule != ScoreRule::kNone;
  });
}

bool OpenSequence::Evicts() const {
  const std::vector<KvSlots>& slots = spec.policy.slots;
  const int64_t stored = spec.num_positions();
  return std::any_of(slots.begin(), slots.end(),
                     [&](const KvSlots& s) { return s.Capacity() < stored; });
}

bool OpenSequence::ChangesLogits() const {
  const int32_t generated = spec.generated + planned_tokens - 1;
  return !spec.logit_bias.empty() || Penalizes(spec.sampling) ||
         generated < spec.min_tokens;
}

int32_t OpenSequence::LargestCapacity() const {
  int32_t most = 0;
  for (const KvSlots& s : spec.policy.slots) {
    most = std::max(most, s.Capacity());
  }
  return most;
}

absl::StatusOr<OpenSequence*> OpenSequences::Find(uint64_t id) {
  const auto it = by_id.find(id);
  if (it == by_id.end()) {
    return absl::InternalError(
        absl::StrCat("the plan names sequence ", id, ", which is not open"));
  }
  return &it->second;
}

std::vector<OpenSequence*> OpenSequences::WaitingForks(uint64_t id) {
  std::vector<OpenSequence*> forks;
  for (auto& [fork_id, sequence] : by_id) {
    if (sequence.spec.fork_of == id && !sequence.prefilled) {
      forks.push_back(&sequence);
    }
  }
  return forks;
}

OpenSequence* OpenSequences::HandOver(uint64_t id) {
  const std::vector<OpenSequence*> forks = WaitingForks(id);
  if (forks.empty()) return nullptr;
  OpenSequence* const heir = forks.front();
  for (OpenSequence* fork : forks) fork->spec.fork_of = heir->spec.id;
  heir->spec.fork_of = 0;
  std::vector<uint64_t>& ids = paused.sequence_ids;
  std::replace(ids.begin(), ids.end(), id, heir->spec.id);
  return heir;
}

void OpenSequences::Close(uint64_t id) {
  by_id.erase(id);
  std::vector<uint64_t>& ids = paused.sequence_ids;
  std::replace(ids.begin(), ids.end(), id, uint64_t{0});
  if (std::all_of(ids.begin(), ids.end(), [](uint64_t i) { return i == 0; })) {
    paused = {};
  }
}

}  // namespace h2o
