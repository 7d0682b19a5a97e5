// Order of service, removal and expiry of the requests that wait.
#include "coordinator/request_queue.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace h2o {
namespace {

// How many requests are looked at in search of one that fits: of a line, and
// of all.  What is behind them gets its turn when these have gone.
constexpr int kLooksOfLine = 8;
constexpr int kLooks = 64;

// While nothing is known of the rate.
constexpr double kUnknownWait = 1;
constexpr double kShortestWait = 0.05;
constexpr double kLongestWait = 3600;

TenantCharge Deposit(const Sequence& sequence) {
  return {.requests = sequence.choices(),
          .most_tokens = sequence.most_tokens()};
}

}  // namespace

RequestQueue::Turn RequestQueue::TurnOf(const Standing& standing, bool is_new,
                                        double arrival, uint64_t id) {
  const int32_t priority =
      std::clamp(standing.priority, -kMostPriority, kMostPriority);
  return {is_new, arrival - kPrioritySeconds * priority, id};
}

RequestQueue::Line& RequestQueue::LineOf(const Entry& entry) {
  TenantAccount* const tenant = entry.sequence->standing().tenant;
  Line& line = lines_[tenant->row->name];
  line.tenant = tenant;
  return line;
}

int64_t RequestQueue::waiting(const TenantAccount& tenant) const {
  const auto line = lines_.find(tenant.row->name);
  return line == lines_.end() ? 0 : line->second.waiting;
}

int64_t RequestQueue::tokens(const TenantAccount& tenant) const {
  const auto line = lines_.find(tenant.row->name);
  return line == lines_.end() ? 0 : line->second.tokens;
}

double RequestQueue::WeightsWith(const TenantAccount& tenant) const {
  double weights = tenant.weight();
  for (const auto& [name, line] : lines_) {
    if (line.tenant != &tenant && line.waiting > 0) {
      weights += line.tenant->weight();
    }
  }
  return weights;
}

// ---- In and out

void RequestQueue::Push(std::unique_ptr<Sequence> sequence, double now) {
  const uint64_t id = sequence->id();
  Entry& entry = entries_[id];
  entry.turn = TurnOf(sequence->standing(), /*is_new=*/!sequence->has_run(),
                      sequence->submitted(), id);
  deadlines_.Add(*sequence);
  entry.sequence = std::move(sequence);
  File(&entry, now);
}

void RequestQueue::Refile(uint64_t id, double now) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  Unfile(&it->second, now);
  File(&it->second, now);
}

void RequestQueue::LoseKept(uint64_t id, double now) { Refile(id, now); }

void RequestQueue::File(Entry* entry, double now) {
  Line& line = LineOf(*entry);
  Sequence& sequence = *entry->sequence;
  entry->tokens = sequence.most_tokens();
  entry->choices = sequence.choices();
  tokens_ += entry->tokens;
  size_ += entry->choices;
  line.tokens += entry->tokens;
  line.waiting += entry->choices;
  if (sequence.stranded()) {
    entry->where = Where::kStranded;
  } else if (sequence.was_text() && entry->turn.is_new) {
    entry->where = Where::kTexts;
    line.texts[sequence.id()] = sequence.state() == Sequence::State::kQueued;
    ReadyTexts(&line, now);
  } else {
    Enter(&line, entry, now);
  }
}

void RequestQueue::Unfile(Entry* entry, double now) {
  Line& line = LineOf(*entry);
  rate_.Pass(now, ready_ > 0);
  tokens_ -= entry->tokens;
  size_ -= entry->choices;
  line.tokens -= entry->tokens;
  line.waiting -= entry->choices;
  const Where was = std::exchange(entry->where, Where::kNowhere);
  if (was == Where::kLine || was == Where::kKept) --ready_;
  if (was == Where::kLine) line.ready.erase(entry->turn);
  if (was == Where::kKept) {
    tenants_->End(line.tenant, Deposit(*entry->sequence), 0, now);
  }
  if (was == Where::kTexts) {
    line.texts.erase(entry->sequence->id());
    ReadyTexts(&line, now);
  }
}

void RequestQueue::ReadyTexts(Line* line, double now) {
  while (!line->texts.empty() && line->texts.begin()->second) {
    Entry* const entry = &entries_.at(line->texts.begin()->first);
    line->texts.erase(line->texts.begin());
    Enter(line, entry, now);
  }
}

void RequestQueue::Enter(Line* line, Entry* entry, double now) {
  if (line->ready.empty()) {
    std::vector<TenantAccount*> others;
    for (const auto& [name, other] : lines_) {
      if (!other.ready.empty()) others.push_back(other.tenant);
    }
    tenants_->Lift(line->tenant, others, now);
  }
  rate_.Pass(now, ready_ > 0);
  ++ready_;
  entry->entered = now;
  entry->where = Where::kLine;
  line->ready.emplace(entry->turn, entry);
}

Sequence* RequestQueue::Find(uint64_t id) const {
  const auto it = entries_.find(id);
  return it == entries_.end() ? nullptr : it->second.sequence.get();
}

std::unique_ptr<Sequence> RequestQueue::Remove(uint64_t id, double now) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return nullptr;
  Unfile(&it->second, now);
  std::unique_ptr<Sequence> sequence = std::move(it->second.sequence);
  deadlines_.Remove(*sequence);
  entries_.erase(it);
  return sequence;
}

Sequence* RequestQueue::FindRequest(uint64_t request_id) const {
  const auto it = entries_.lower_bound(request_id);
  if (it == entries_.end()) return nullptr;
  Sequence* const sequence = it->second.sequence.get();
  return sequence->request_id() == request_id ? sequence : nullptr;
}

std::unique_ptr<Sequence> RequestQueue::RemoveChoice(uint64_t id, double now) {
  // The choice that stands for others has the least id of them.
  auto it = entries_.upper_bound(id);
  if (it == entries_.begin()) return nullptr;
  --it;
  if (!it->second.sequence->has_choice(id)) return nullptr;
  const std::optional<double> unfit_since = it->second.unfit_since;
  std::unique_ptr<Sequence> rest = Remove(it->first, now);
  std::unique_ptr<Sequence> choice = Sequence::TakeChoice(id, &rest);
  if (rest != nullptr) {
    const uint64_t lead = rest->id();
    Push(std::move(rest), now);
    entries_.at(lead).unfit_since = unfit_since;
  }
  return choice;
}

bool RequestQueue::IsKept(uint64_t id) const {
  const auto it = entries_.find(id);
  return it != entries_.end() && it->second.where == Where::kKept;
}

std::unique_ptr<Sequence> RequestQueue::Take(uint64_t id, double now) {
  const Entry& entry = entries_.at(id);
  const bool has_waited = now > entry.entered;
  const int64_t tokens = entry.tokens;
  std::unique_ptr<Sequence> sequence = Remove(id, now);
  if (has_waited) rate_.Started(tokens);
  return sequence;
}

RequestQueue::Taken RequestQueue::RemoveIf(
    absl::FunctionRef<bool(Sequence&)> goes, double now) {
  std::vector<uint64_t> ids;
  for (const auto& [id, entry] : entries_) {
    if (goes(*entry.sequence)) ids.push_back(id);
  }
  Taken taken;
  for (const uint64_t id : ids) taken.push_back(Remove(id, now));
  return taken;
}

RequestQueue::Taken RequestQueue::RemoveExpired(double max_seconds,
                                                double now) {
  return RemoveIf(
      [&](const Sequence& sequence) {
        return !sequence.has_run() && !sequence.stranded() &&
               sequence.queued_seconds(now) > max_seconds;
      },
      now);
}

RequestQueue::Taken RequestQueue::RemoveDue(double now) {
  Taken taken;
  for (const uint64_t id : deadlines_.Due(now)) {
    taken.push_back(Remove(id, now));
  }
  return taken;
}

double RequestQueue::OldestSeconds(double now) const {
  double oldest = 0;
  for (const auto& [id, entry] : entries_) {
    oldest = std::max(oldest, entry.sequence->queued_seconds(now));
  }
  return oldest;
}

void RequestQueue::ForEach(absl::FunctionRef<void(Sequence&)> visit) {
  for (const auto& [id, entry] : entries_) visit(*entry.sequence);
}

// ---- Whose turn it is

std::vector<const RequestQueue::Line*> RequestQueue::LinesByCost(
    double now) const {
  // Who came first, if the costs are equal.
  std::vector<std::tuple<double, Turn, const Line*>> by_cost;
  for (const auto& [name, line] : lines_) {
    if (line.ready.empty() || !tenants_->MayRun(*line.tenant)) continue;
    by_cost.emplace_back(tenants_->Cost(*line.tenant, now),
                         line.ready.begin()->first, &line);
  }
  std::sort(by_cost.begin(), by_cost.end());
  std::vector<const Line*> lines;
  for (const auto& [cost, turn, line] : by_cost) lines.push_back(line);
  return lines;
}

RequestQueue::Found RequestQueue::Search(
    double now, Look look, absl::FunctionRef<void(Entry*)> on_unfit) const {
  Found found;
  int looks = 0;
  for (const Line* line : LinesByCost(now)) {
    int of_line = 0;
    for (const auto& [turn, entry] : line->ready) {
      if (++of_line > kLooksOfLine || ++looks > kLooks) break;
      const Room room = look(*entry->sequence);
      if (room == Room::kFree) {
        found.fits = entry;
        return found;
      }
      if (room == Room::kBarred) continue;
      on_unfit(entry);
      if (found.head == nullptr) found.head = entry;
    }
    if (looks > kLooks) break;
  }
  return found;
}

Sequence* RequestQueue::Next(double now, Look look,
                             absl::FunctionRef<bool(Sequence&)> keep) {
  while (true) {
    const Found found = Search(now, look, [now](Entry* entry) {
      if (!entry->unfit_since) entry->unfit_since = now;
    });
    Entry* const head = found.head;
    if (head == nullptr || now - *head->unfit_since < patience_ ||
        !keep(*head->sequence)) {
      return found.fits == nullptr ? nullptr : found.fits->sequence.get();
    }
    Line& line = LineOf(*head);
    line.ready.erase(head->turn);
    head->where = Where::kKept;
    tenants_->Start(line.tenant, Deposit(*head->sequence), now);
  }
}

bool RequestQueue::HasOneFor(double now, Look look) const {
  return Search(now, look, [](Entry*) {}).fits != nullptr;
}

// ---- How long it takes

double RequestQueue::EstimateWait(const Standing& standing, int64_t most_tokens,
                                  double now) const {
  std::optional<double> rate = rate_.TokensPerSecond();
  if (!rate) rate = tenants_->TokensPerSecond();
  if (!rate || !(*rate > 0)) return kUnknownWait;
  int64_t ahead = 0;
  const auto it = lines_.find(standing.tenant->row->name);
  if (it != lines_.end()) {
    ahead = it->second.tokens;
    const Turn mine = TurnOf(standing, /*is_new=*/true, now, UINT64_MAX);
    const auto& ready = it->second.ready;
    for (auto last = ready.rbegin(); last != ready.rend(); ++last) {
      if (last->first < mine) break;
      ahead -= last->second->tokens;
    }
  }
  // Others take their share of the rate, but no more than they ask for.
  const double share =
      standing.tenant->weight() / WeightsWith(*standing.tenant);
  const double by_share = static_cast<double>(ahead + most_tokens) / share;
  const double behind_all = static_cast<double>(tokens_ + most_tokens);
  return std::clamp(std::min(by_share, behind_all) / *rate, kShortestWait,
                    kLongestWait);
}

}  // namespace h2o
