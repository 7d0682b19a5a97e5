// Which waiting request starts in which group.
//
// A request goes to the group with the most free pages of those that hold it.
// If the first in turn finds none for longer than its patience, a group is kept
// for it: the one with the most free pages of those that could ever hold it.
// Until it starts, no other request starts there, so what runs there ends and
// its pages gather.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "coordinator/group_at_work.h"
#include "coordinator/request_queue.h"
#include "coordinator/tenant_accounts.h"

namespace h2o {

class Placement {
 public:
  struct Choice {
    Sequence* sequence = nullptr;  // in the queue
    GroupAtWork* group = nullptr;
  };

  // `queue` and `tenants` must outlive this.
  Placement(RequestQueue* queue, TenantAccounts* tenants)
      : queue_(queue), tenants_(tenants) {}

  // Groups of equal shape charge a sequence alike.
  uint64_t ShapeOf(const GroupInfo& info);

  void Add(GroupAtWork* group);
  // The group takes no more requests.
  void Close(GroupAtWork* group, double now);
  // Before the group goes.
  void Remove(GroupAtWork* group, double now);

  // The request that starts now, and where; none: nothing can.
  std::optional<Choice> Next(double now);
  // Whether Next would find one.
  bool HasNext(double now) const;
  // The group where a request that is not in the queue would start at once, or
  // null.
  GroupAtWork* WouldStart(Sequence* sequence) const;

 private:
  struct Shape {
    KvGeometry geometry;
    int tp = 0;
  };
  struct Place {
    GroupAtWork* group = nullptr;
    uint64_t kept_for = 0;  // a request in the queue; 0: for none
  };

  // The best group that no other request has been kept from.
  GroupAtWork* BestFor(Sequence* sequence) const;
  // The free pages of the group with the most, of those that take requests.
  int64_t MostFree() const;
  RequestQueue::Room RoomFor(Sequence* sequence, int64_t most_free,
                             double now) const;
  bool KeepFor(Sequence* sequence);
  std::optional<Choice> NextKept(double now);

  RequestQueue* const queue_;
  TenantAccounts* const tenants_;
  std::vector<Shape> shapes_;
  std::vector<Place> places_;
};

}  // namespace h2o
