// Finds groups for waiting requests, and keeps groups for those that need one.
#include "coordinator/placement.h"

#include <algorithm>
#include <utility>

namespace h2o {

uint64_t Placement::ShapeOf(const GroupInfo& info) {
  for (size_t i = 0; i < shapes_.size(); ++i) {
    if (shapes_[i].tp == info.tp() && shapes_[i].geometry == info.geometry()) {
      return i;
    }
  }
  shapes_.push_back({info.geometry(), info.tp()});
  return shapes_.size() - 1;
}

void Placement::Add(GroupAtWork* group) { places_.push_back({group}); }

void Placement::Remove(GroupAtWork* group, double now) {
  Close(group, now);
  std::erase_if(places_, [group](const Place& p) { return p.group == group; });
}

void Placement::Close(GroupAtWork* group, double now) {
  for (Place& place : places_) {
    if (place.group != group || place.kept_for == 0) continue;
    queue_->LoseKept(std::exchange(place.kept_for, 0), now);
  }
}

std::optional<Placement::Choice> Placement::Next(double now) {
  if (queue_->empty()) return std::nullopt;
  if (const std::optional<Choice> kept = NextKept(now)) return kept;
  const int64_t most_free = MostFree();
  Sequence* const next = queue_->Next(
      now, [&](Sequence& s) { return RoomFor(&s, most_free, now); },
      [this](Sequence& s) { return KeepFor(&s); });
  if (next == nullptr) return std::nullopt;
  return Choice{next, BestFor(next)};
}

bool Placement::HasNext(double now) const {
  const int64_t most_free = MostFree();
  return queue_->HasOneFor(
      now, [&](Sequence& s) { return RoomFor(&s, most_free, now); });
}

std::optional<Placement::Choice> Placement::NextKept(double now) {
  for (Place& place : places_) {
    if (place.kept_for == 0) continue;
    if (!queue_->IsKept(place.kept_for)) {  // it ended in the queue
      place.kept_for = 0;
      continue;
    }
    Sequence* const sequence = queue_->Find(place.kept_for);
    if (sequence->standing().deadline <= now) continue;
    GroupAtWork* const group =
        place.group->takes_requests() && place.group->Fits(sequence)
            ? place.group
            : BestFor(sequence);
    if (group == nullptr ||
        !tenants_->MayHold(*sequence->standing().tenant,
                           SumOf(group->ChargeOf(sequence)))) {
      continue;
    }
    place.kept_for = 0;
    return Choice{sequence, group};
  }
  return std::nullopt;
}

GroupAtWork* Placement::WouldStart(Sequence* sequence) const {
  const TenantAccount& tenant = *sequence->standing().tenant;
  GroupAtWork* const best = tenants_->MayRun(tenant, sequence->choices())
                                ? BestFor(sequence)
                                : nullptr;
  if (best == nullptr) return nullptr;
  return tenants_->MayHold(tenant, SumOf(best->ChargeOf(sequence))) ? best
                                                                    : nullptr;
}

GroupAtWork* Placement::BestFor(Sequence* sequence) const {
  GroupAtWork* best = nullptr;
  for (const Place& place : places_) {
    GroupAtWork* const group = place.group;
    if (place.kept_for != 0 || !group->takes_requests() ||
        !group->Fits(sequence)) {
      continue;
    }
    if (best == nullptr ||
        group->admission().FreeSlabs() > best->admission().FreeSlabs()) {
      best = group;
    }
  }
  return best;
}

int64_t Placement::MostFree() const {
  int64_t most = -1;
  for (const Place& place : places_) {
    if (place.kept_for != 0 || !place.group->takes_requests() ||
        !place.group->has_seats(1)) {
      continue;
    }
    most = std::max(most, place.group->admission().FreeSlabs());
  }
  return most;
}

RequestQueue::Room Placement::RoomFor(Sequence* sequence, int64_t most_free,
                                      double now) const {
  if (places_.empty() || sequence->standing().deadline <= now) {
    return RequestQueue::Room::kBarred;
  }
  const SlabCharge& charge = places_.front().group->ChargeOf(sequence);
  const TenantAccount& tenant = *sequence->standing().tenant;
  if (!tenants_->MayRun(tenant, sequence->choices()) ||
      !tenants_->MayHold(tenant, SumOf(charge))) {
    return RequestQueue::Room::kBarred;
  }
  // A group's tightest rank cannot have less free than the sequence's least
  // charge: this spares a look at every group.
  const bool may_fit =
      shapes_.size() > 1 ||
      *std::min_element(charge.begin(), charge.end()) <= most_free;
  return may_fit && BestFor(sequence) != nullptr ? RequestQueue::Room::kFree
                                                 : RequestQueue::Room::kNone;
}

bool Placement::KeepFor(Sequence* sequence) {
  Place* best = nullptr;
  for (Place& place : places_) {
    if (place.kept_for != 0 || !place.group->takes_requests() ||
        !place.group->CanEverFit(sequence).ok()) {
      continue;
    }
    if (best == nullptr || place.group->admission().FreeSlabs() >
                               best->group->admission().FreeSlabs()) {
      best = &place;
    }
  }
  if (best == nullptr) return false;
  best->kept_for = sequence->id();
  return true;
}

}  // namespace h2o
