// The requests that wait for a group, and the order in which they are served.
//
// Tenants    take turns: the one with the least cost per weight is next
//            (tenant_accounts.h).
// In a line  a tenant's requests go by priority and arrival.  A priority is
//            worth kPrioritySeconds of waiting for each step, so every request
//            comes first in the end.  Requests that ran before, in a group that
//            was lost, go first.  Texts keep their order of arrival among
//            themselves while they are encoded; token prompts do not wait for
//            them.
// The head   is the first request in turn that could run but does not fit.
//            Others that fit pass it until the patience has gone by since it
//            was first looked at and did not fit.  Then a group is kept for it:
//            nothing else starts there.
//
// Push and Remove take O(log n), Next O(tenants) and a bounded number of looks
// at requests.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "coordinator/deadlines.h"
#include "coordinator/sequence.h"
#include "coordinator/start_rate.h"
#include "coordinator/tenant_accounts.h"

namespace h2o {

class RequestQueue {
 public:
  using Taken = std::vector<std::unique_ptr<Sequence>>;

  static constexpr double kPrioritySeconds = 10;
  static constexpr int32_t kMostPriority = 100;  // more count as this

  // `tenants` must outlive the queue.
  RequestQueue(TenantAccounts* tenants, double head_patience_seconds)
      : tenants_(tenants), patience_(head_patience_seconds) {}

  int64_t size() const { return size_; }  // each choice of a request counts
  bool empty() const { return entries_.empty(); }
  // Of a tenant, or of all: how many wait, and what they may take.
  int64_t waiting(const TenantAccount& tenant) const;
  int64_t tokens() const { return tokens_; }
  int64_t tokens(const TenantAccount& tenant) const;
  // The weights of the tenants that have requests waiting, with `tenant`.
  double WeightsWith(const TenantAccount& tenant) const;

  void Push(std::unique_ptr<Sequence> sequence, double now);
  // The state of a request (encoded, stranded) has changed.
  void Refile(uint64_t id, double now);

  // How a group could take a request.
  enum class Room {
    kFree,   // it can start now
    kNone,   // later: it may become the head
    kBarred  // not now for a reason of its own, which no pages would mend
  };
  using Look = absl::FunctionRef<Room(Sequence&)>;

  // The request to start now, or null.  `keep` keeps a group for a head, and
  // returns false if there is none to keep.
  Sequence* Next(double now, Look look,
                 absl::FunctionRef<bool(Sequence&)> keep);
  // Whether a request could start now.
  bool HasOneFor(double now, Look look) const;
  // The group that was kept for the request is gone.
  void LoseKept(uint64_t id, double now);

  // Null if it does not wait here, or another choice stands for it.
  Sequence* Find(uint64_t id) const;
  // A choice of the request that stands for itself or for all that wait; null:
  // none waits here.
  Sequence* FindRequest(uint64_t request_id) const;
  // With all choices that it stands for.  Null if it does not wait here.
  std::unique_ptr<Sequence> Remove(uint64_t id, double now);
  // Without the other choices, which keep their place.
  std::unique_ptr<Sequence> RemoveChoice(uint64_t id, double now);
  // Whether a group is kept for the request.
  bool IsKept(uint64_t id) const;
  // The same of one that starts: the rate of starts counts it.
  std::unique_ptr<Sequence> Take(uint64_t id, double now);
  // In the order of their ids.
  Taken RemoveIf(absl::FunctionRef<bool(Sequence&)> goes, double now);
  // Those that have waited for longer than `max_seconds`.  Requests that ran
  // before, and stranded ones, have limits of their own.
  Taken RemoveExpired(double max_seconds, double now);
  // Those whose deadline has passed.
  Taken RemoveDue(double now);
  // How long the request that has waited longest waits; 0 if none does.
  double OldestSeconds(double now) const;
  void ForEach(absl::FunctionRef<void(Sequence&)> visit);

  // How long a request with this standing would wait behind the others.
  double EstimateWait(const Standing& standing, int64_t most_tokens,
                      double now) const;

 private:
  // The place in a tenant's line: the least is first.
  struct Turn {
    bool is_new = true;  // it never ran
    double time = 0;     // of arrival, earlier for a higher priority
    uint64_t id = 0;
    auto operator<=>(const Turn&) const = default;
  };
  enum class Where { kNowhere, kLine, kTexts, kKept, kStranded };
  struct Entry {
    std::unique_ptr<Sequence> sequence;
    Turn turn;
    Where where = Where::kNowhere;
    int64_t tokens = 0, choices = 0;    // as counted in the line and in all
    double entered = 0;                 // the line
    std::optional<double> unfit_since;  // first looked at without success
  };
  struct Line {
    TenantAccount* tenant = nullptr;
    std::map<Turn, Entry*> ready;
    std::map<uint64_t, bool> texts;  // true: it is encoded, not those before it
    int64_t waiting = 0;
    int64_t tokens = 0;
  };
  struct Found {
    Entry* fits = nullptr;
    Entry* head = nullptr;  // that does not fit, and comes before `fits`
  };

  static Turn TurnOf(const Standing& standing, bool is_new, double arrival,
                     uint64_t id);
  Line& LineOf(const Entry& entry);
  std::vector<const Line*> LinesByCost(double now) const;
  Found Search(double now, Look look,
               absl::FunctionRef<void(Entry*)> on_unfit) const;
  void File(Entry* entry, double now);
  void Unfile(Entry* entry, double now);
  void ReadyTexts(Line* line, double now);
  void Enter(Line* line, Entry* entry, double now);

  TenantAccounts* const tenants_;
  const double patience_;
  std::map<uint64_t, Entry> entries_;
  std::map<std::string, Line> lines_;  // by the tenant's name
  Deadlines deadlines_;                // of all
  int64_t size_ = 0, tokens_ = 0;
  int64_t ready_ = 0;  // in a line, or kept
  StartRate rate_;
};

}  // namespace h2o
