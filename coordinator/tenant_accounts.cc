// Keeps the accounts of tenants: costs, limits and allowances.
#include "coordinator/tenant_accounts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace h2o {
namespace {

constexpr double kMemorySeconds = 600;  // of the price of a page-second
constexpr double kMinute = 60;

double PerMinute(const TenantAccount& account) {
  return static_cast<double>(account.row->tokens_per_minute);
}

// Adds what the bucket has gained since the last look.
void Refill(TenantAccount* account, double now) {
  const double gained =
      PerMinute(*account) * (now - account->allowance_at) / kMinute;
  account->allowance =
      std::min(account->allowance + std::max(gained, 0.0), PerMinute(*account));
  account->allowance_at = now;
}

}  // namespace

TenantAccount* TenantAccounts::Of(TenantRow row, double now) {
  if (row == nullptr) row = std::make_shared<const Tenant>();
  const auto [it, is_new] = accounts_.try_emplace(row->name);
  TenantAccount& account = it->second;
  const bool refills =
      is_new || account.row->tokens_per_minute != row->tokens_per_minute;
  if (is_new) account.counted = now;
  account.row = std::move(row);
  if (refills) {
    account.allowance = PerMinute(account);
    account.allowance_at = now;
  }
  return &account;
}

bool TenantAccounts::MayRun(const TenantAccount& account,
                            int64_t requests) const {
  return account.row->max_running == 0 ||
         account.running + requests <= account.row->max_running;
}

int64_t TenantAccounts::MostPages(const TenantAccount& account) const {
  const double share = account.row->max_kv_share;
  if (share <= 0 || share >= 1) return std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(share * static_cast<double>(pool_pages_));
}

bool TenantAccounts::MayHold(const TenantAccount& account,
                             int64_t pages) const {
  return account.pages + pages <= MostPages(account);
}

absl::Status TenantAccounts::CanEverRun(const TenantAccount& account,
                                        int64_t requests, int64_t pages) const {
  const int64_t most = account.row->max_running;
  if (most > 0 && requests > most) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the request has ", requests, " choices; tenant ", account.row->name,
        " may run ", most, " at once; ask for a smaller n"));
  }
  if (pages <= MostPages(account)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the request needs ", pages, " KV pages over all ranks; tenant ",
      account.row->name, " may hold ", MostPages(account), ", ",
      account.row->max_kv_share, " of ", pool_pages_,
      "; ask for fewer tokens or a smaller kv budget"));
}

std::optional<double> TenantAccounts::MissingAllowance(TenantAccount* account,
                                                       int64_t most_tokens,
                                                       double now) {
  if (account->row->tokens_per_minute == 0) return std::nullopt;
  Refill(account, now);
  const double missing =
      std::min(static_cast<double>(most_tokens), PerMinute(*account)) -
      account->allowance;
  if (missing > 0) return missing * kMinute / PerMinute(*account);
  return std::nullopt;
}

int64_t TenantAccounts::Allowance(TenantAccount* account, double now) {
  Refill(account, now);
  return static_cast<int64_t>(std::max(0.0, account->allowance));
}

void TenantAccounts::Take(TenantAccount* account, int64_t tokens) {
  if (account->row->tokens_per_minute == 0) return;
  account->allowance -= static_cast<double>(tokens);
}

void TenantAccounts::GiveBack(TenantAccount* account, int64_t tokens) {
  if (account->row->tokens_per_minute == 0) return;
  account->allowance = std::min(
      account->allowance + static_cast<double>(tokens), PerMinute(*account));
}

void TenantAccounts::Lift(TenantAccount* account,
                          absl::Span<TenantAccount* const> others, double now) {
  Count(account, now);
  double least = std::numeric_limits<double>::infinity();
  for (const TenantAccount* other : others) {
    least = std::min(least, Cost(*other, now));
  }
  // Nobody waits: whoever started last was the least then.
  if (others.empty() && last_started_ != nullptr) {
    least = Cost(*last_started_, now);
  }
  const double behind = least - Cost(*account, now);
  if (std::isfinite(behind) && behind > 0) {
    account->spent += behind * account->weight();
  }
}

void TenantAccounts::Start(TenantAccount* account, const TenantCharge& charge,
                           double now) {
  Count(account, now);
  account->running += charge.requests;
  account->deposit += charge.most_tokens;
  deposit_ += charge.most_tokens;
  account->pages += charge.pages;
  pages_ += charge.pages;
  last_started_ = account;
}

void TenantAccounts::End(TenantAccount* account, const TenantCharge& charge,
                         int64_t tokens, double now) {
  Count(account, now);
  account->running -= charge.requests;
  account->deposit -= charge.most_tokens;
  deposit_ -= charge.most_tokens;
  account->pages -= charge.pages;
  pages_ -= charge.pages;
  H2O_CHECK(account->running >= 0 && account->deposit >= 0 &&
            account->pages >= 0)
      << "tenant " << account->row->name << " ended more than it started";
  account->spent += static_cast<double>(tokens);
  account->tokens += tokens;
  tokens_ += static_cast<double>(tokens);
}

void TenantAccounts::CountRun(double seconds) {
  constexpr double kNewest = 0.1;
  const double before = run_seconds_.value_or(seconds);
  run_seconds_ = before + kNewest * (seconds - before);
}

std::optional<double> TenantAccounts::TokensPerSecond() const {
  if (!run_seconds_ || deposit_ == 0 || !(*run_seconds_ > 0)) {
    return std::nullopt;
  }
  return static_cast<double>(deposit_) / *run_seconds_;
}

double TenantAccounts::Cost(const TenantAccount& account, double now) const {
  const double page_seconds =
      static_cast<double>(account.pages) * std::max(now - account.counted, 0.0);
  return (account.spent + static_cast<double>(account.deposit) +
          page_seconds * TokensOfPageSecond()) /
         account.weight();
}

std::vector<const TenantAccount*> TenantAccounts::all() const {
  std::vector<const TenantAccount*> all;
  for (const auto& [name, account] : accounts_) all.push_back(&account);
  return all;
}

void TenantAccounts::Count(TenantAccount* account, double now) {
  // The price first: it holds for the time since the account was counted.
  account->spent = Cost(*account, now) * account->weight() -
                   static_cast<double>(account->deposit);
  account->counted = std::max(now, account->counted);
  const double passed = std::max(now - now_, 0.0);
  const double kept = std::exp(-passed / kMemorySeconds);
  tokens_ *= kept;
  page_seconds_ = page_seconds_ * kept + static_cast<double>(pages_) * passed;
  now_ = std::max(now, now_);
}

double TenantAccounts::TokensOfPageSecond() const {
  return page_seconds_ > 0 ? tokens_ / page_seconds_ : 0;
}

}  // namespace h2o
