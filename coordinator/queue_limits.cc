// Refuses what the queue has no room for.
#include "coordinator/queue_limits.h"

#include "absl/strings/str_cat.h"
#include "api/refusal.h"

namespace h2o {
namespace {

// What waits, counted with the new request.
struct Load {
  int64_t all = 0;
  int64_t of_tenant = 0;
};

bool IsOver(const Load& load, int64_t limit, double share) {
  const bool over_share =
      static_cast<double>(load.of_tenant) > share * static_cast<double>(limit);
  return load.all > limit && (over_share || load.all > 2 * limit);
}

}  // namespace

absl::Status CheckQueueLimits(const EngineOptions& options,
                              const RequestQueue& queue,
                              const Sequence& sequence,
                              double retry_after_seconds) {
  const TenantAccount& tenant = *sequence.standing().tenant;
  const auto refuse = [&](Refusal reason, auto&&... parts) {
    return Refused(
        reason,
        absl::ResourceExhaustedError(absl::StrCat(
            parts..., "; try later, in about ", retry_after_seconds, " s")),
        retry_after_seconds);
  };
  const int64_t choices = sequence.choices();
  const Load requests = {queue.size() + choices,
                         queue.waiting(tenant) + choices};
  const int64_t most_of_tenant = tenant.row->max_waiting;
  // Where nothing waits, a request of any size may.
  if (most_of_tenant > 0 && requests.of_tenant > most_of_tenant &&
      queue.waiting(tenant) > 0) {
    return refuse(Refusal::kTenantWaiting, "tenant ", tenant.row->name, " has ",
                  most_of_tenant,
                  " requests in the queue and may have no more");
  }
  const double share = tenant.weight() / queue.WeightsWith(tenant);
  if (!queue.empty() && IsOver(requests, options.max_queue, share)) {
    return refuse(Refusal::kQueueFull, "the queue is full: ", queue.size(),
                  " requests wait");
  }
  const Load tokens = {queue.tokens() + sequence.most_tokens(),
                       queue.tokens(tenant) + sequence.most_tokens()};
  if (options.max_queue_tokens > 0 && !queue.empty() &&
      IsOver(tokens, options.max_queue_tokens, share)) {
    return refuse(Refusal::kQueueTokens, "the queue is full: its ",
                  queue.size(), " requests may take ", queue.tokens(),
                  " tokens, this one ", sequence.most_tokens(), ", of at most ",
                  options.max_queue_tokens);
  }
  return absl::OkStatus();
}

}  // namespace h2o
