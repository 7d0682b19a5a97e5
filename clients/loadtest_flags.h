// The flags of `h2oserve loadtest`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/server_flags.h"
#include "loadtest/limit_search.h"
#include "loadtest/load_report.h"
#include "loadtest/load_spec.h"

namespace CLI {
class App;
}

namespace h2o {

struct LoadtestFlags {
  std::vector<std::string> targets;
  std::string rate;  // empty: not given
  std::optional<int> concurrency;
  bool find_limit = false;
  std::string arrivals = "poisson";
  std::string lengths = "512,128";
  std::string trace, lengths_of;  // files; empty: not given
  LoadSpec spec;                  // what has a flag of its own type
  std::optional<double> slo_ttft_ms, slo_tpot_ms, slo_e2e_ms;
  double slo_share = 0.95;
  LimitSearchOptions limit;
  std::string report;  // a folder; empty: none
  bool json = false;

  // How servers are reached.
  CredentialFlags credentials;
  std::string tenants, model, http_fields = "{}";
  double timeout_seconds = 600;

  // Several generators.
  std::string listen, join, name;
  int generators = 1;

  // Errors: INVALID_ARGUMENT naming the flag and what would be right.
  absl::StatusOr<LoadSpec> Spec() const;
  Slo Limits() const;
};

// A tenant, and the key that its requests carry.
struct TenantKey {
  TenantShare tenant;
  std::string key;
};
// Lines of {"name", "weight", "key"}.
absl::StatusOr<std::vector<TenantKey>> ReadTenants(const std::string& path);

void AddLoadtestFlags(CLI::App* command, LoadtestFlags* flags);

}  // namespace h2o
