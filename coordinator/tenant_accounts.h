// What every tenant has had of the server, and so who is next.
//
// The cost of a request is its tokens (prompt and answer) plus what its KV
// pages cost for the time that it held them.  A page-second costs as many
// tokens as the server has made on average in one, so that over all requests
// half of the cost is for tokens and half for memory, whatever the hardware.
//
// The tenant with the least cost per weight is next: the fair order of Sheng et
// al., "Fairness in Serving Large Language Models", OSDI 2024 (virtual token
// counters), with page-seconds beside the tokens.  Two additions:
//   deposit  a request that runs counts with the most tokens that it may take,
//            as its pages do; with those that it took once it has ended.  So
//            many seats that become free at once are shared as well.
//   lift     a tenant that had nothing waiting does not fall back behind those
//            that have: time in which it asked for nothing gives no credit
//            (section 4.1 there; the start tags of Goyal et al., "Start-time
//            fair queueing", 1996, do the same).
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "api/tenant.h"

namespace h2o {

struct TenantAccount {
  TenantRow row;

  int64_t running = 0;  // requests that run, or that pages are gathered for
  int64_t pages = 0;    // that its running requests hold, over all ranks
  int64_t tokens = 0;   // that it has been given in all

  // In tokens: of what has ended, with pages up to `counted`; and the most that
  // its running requests may still take.
  double spent = 0;
  int64_t deposit = 0;
  double counted = 0;

  // Tokens that it may ask for now, of a bucket of those of one minute.  Below
  // 0 after a request of more.
  double allowance = 0;
  double allowance_at = 0;

  double weight() const { return row->weight; }
};

// What one request is charged, or all choices of one.
struct TenantCharge {
  int64_t requests = 1;
  int64_t most_tokens = 0;  // prompt and max_tokens
  int64_t pages = 0;        // over all ranks; 0 while they are gathered
};

class TenantAccounts {
 public:
  // The account of a tenant, by its name; null: of the default tenant.  The
  // row replaces an older one.  The account lives as long as this.
  TenantAccount* Of(TenantRow row, double now);

  // Pages of all groups: what max_kv_share is a share of.
  void SetPoolPages(int64_t pages) { pool_pages_ = pages; }

  // Whether the tenant may run so many more requests, and so many more pages.
  bool MayRun(const TenantAccount& account, int64_t requests = 1) const;
  bool MayHold(const TenantAccount& account, int64_t pages) const;
  // Whether it could run and hold them if it had nothing else.  Errors:
  // INVALID_ARGUMENT with the arithmetic.
  absl::Status CanEverRun(const TenantAccount& account, int64_t requests,
                          int64_t pages) const;

  // After how many seconds the allowance covers a request; none: now.  A
  // request of more than a minute's tokens needs a full bucket.
  std::optional<double> MissingAllowance(TenantAccount* account,
                                         int64_t most_tokens, double now);
  // The tokens that it may ask for now, at least 0.
  int64_t Allowance(TenantAccount* account, double now);
  void Take(TenantAccount* account, int64_t tokens);
  // Gives back what a request did not take.
  void GiveBack(TenantAccount* account, int64_t tokens);

  // The tenant has a request waiting and had none; the others have.
  void Lift(TenantAccount* account, absl::Span<TenantAccount* const> others,
            double now);

  // A request starts; it has ended with so many tokens.
  void Start(TenantAccount* account, const TenantCharge& charge, double now);
  void End(TenantAccount* account, const TenantCharge& charge, int64_t tokens,
           double now);

  // A request has run for `seconds`.
  void CountRun(double seconds);
  // Requests that start in a second, in their most tokens, if all ran as long
  // as those that have ended (Little, "A proof for the queuing formula L =
  // lambda W", 1961); none: no request has ended.
  std::optional<double> TokensPerSecond() const;

  // In tokens per weight: the least is next.
  double Cost(const TenantAccount& account, double now) const;

  std::vector<const TenantAccount*> all() const;

 private:
  int64_t MostPages(const TenantAccount& account) const;
  // Adds what the tenant's pages have cost until now.
  void Count(TenantAccount* account, double now);
  // What a page-second costs.
  double TokensOfPageSecond() const;

  std::map<std::string, TenantAccount> accounts_;
  TenantAccount* last_started_ = nullptr;
  int64_t pool_pages_ = 0;

  // Of all tenants: tokens taken and page-seconds held, the older, the less
  // they count.
  double tokens_ = 0, page_seconds_ = 0;
  int64_t pages_ = 0;                  // held now
  int64_t deposit_ = 0;                // of all tenants
  std::optional<double> run_seconds_;  // mean of a request
  double now_ = 0;
};

}  // namespace h2o
