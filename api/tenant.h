// Whose request it is: a row of the key file.  The queue shares out the groups
// among tenants by what this says.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace h2o {

// Several keys may belong to one tenant; `name` tells tenants apart.  A limit
// of 0 means none.
struct Tenant {
  std::string name = "default";
  double weight = 1;     // its share beside others, over 0
  int32_t priority = 0;  // added to that of its requests; higher first
  int32_t max_waiting = 0;
  int32_t max_running = 0;
  double max_kv_share = 0;        // of all KV pages: 0.5 is half of them
  int64_t tokens_per_minute = 0;  // of prompts and answers
  std::vector<std::string> models = {"*"};  // that it may use; *: all
  bool admin = false;                       // may see the status and drain

  friend bool operator==(const Tenant&, const Tenant&) = default;
};

// A row that stays as it is, even if the key file changes.
using TenantRow = std::shared_ptr<const Tenant>;

// Without a key file all requests belong to `default`, without limits.
inline const Tenant& TenantOrDefault(const TenantRow& row) {
  static const Tenant everybody;
  return row != nullptr ? *row : everybody;
}

}  // namespace h2o
